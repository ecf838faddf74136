//! What `doctor` says of the host that the daemon stands on: the bpffs, the kernel and its settings, capabilities, clock, disk, the
//! daemon's own files, units. `look` reads, `checks` decides. It must never change anything, nor take long.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bpfd_sys::bpffs;
use bpfd_sys::caps::{Cap, missing};
use rustix::fs::statvfs;

use super::system::{Check, Condition, check};
use crate::kernel::has_tcx;
use crate::layout::Layout;

/// Free bytes that a load with its image, database and log needs at most, twice.
const ROOM: u64 = 64 << 20;
/// Seconds since 1970 at the start of 2026: no bpfd ran before it.
const EARLIEST: u64 = 1_767_225_600;
/// What starts the daemon at a boot, if it is enabled (packaging/systemd/bpfd.service).
const ENABLED: [&str; 3] = [
    "/etc/systemd/system/sysinit.target.wants/bpfd.service",
    "/etc/systemd/system/sockets.target.wants/bpfd.socket",
    "/usr/lib/systemd/system/sysinit.target.wants/bpfd.service",
];

/// What was seen.
#[derive(Debug)]
pub(super) struct Host {
    bpffs: PathBuf,
    /// Whether pins are on a bpffs.
    has_bpffs: io::Result<bool>,
    /// Whether it is the one that PID 1 sees there; `None` if that does not matter or cannot be told.
    is_hosts: Option<bool>,
    /// Bytes of the kernel's own BTF.
    btf: io::Result<u64>,
    /// `bpf_jit_enable`; `None` in a network namespace that is not the kernel's first: it cannot be seen there.
    jit: Option<io::Result<String>>,
    has_tcx: bool,
    lacks: io::Result<Vec<Cap>>,
    /// Seconds since 1970.
    time: u64,
    /// Free bytes for the database and for the audit log.
    free: Vec<(PathBuf, io::Result<u64>)>,
    /// Files and directories that the daemon made, and that are gone.
    gone: Vec<PathBuf>,
    /// Whether systemd starts the daemon at a boot; `None` where systemd does not run or the daemon is not the host's.
    enabled: Option<bool>,
}

/// Looks at the host.
pub(super) fn look(layout: &Layout) -> Host {
    let is_hosts = match layout.root {
        Some(_) => None,
        None => (|| Some(bpffs::device(&layout.bpffs).ok()? == bpffs::device_of_host("/sys/fs/bpf").ok()??))(),
    };
    let free = |directory: &PathBuf| {
        let free = statvfs(directory).map(|it| it.f_bavail.saturating_mul(it.f_frsize)).map_err(io::Error::from);
        (directory.clone(), free)
    };
    let made = [layout.database(), layout.objects()];
    let enabled = (layout.root.is_none() && Path::new("/run/systemd/system").is_dir())
        .then(|| ENABLED.iter().any(|link| Path::new(link).is_symlink()));
    Host {
        bpffs: layout.bpffs.clone(),
        has_bpffs: bpffs::is_bpffs(&layout.bpffs),
        is_hosts,
        btf: std::fs::metadata("/sys/kernel/btf/vmlinux").map(|file| file.len()),
        jit: jit(),
        has_tcx: has_tcx(),
        lacks: missing(&[Cap::Bpf, Cap::Perfmon, Cap::NetAdmin, Cap::SysAdmin]),
        time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        free: [&layout.lib, &layout.log].map(free).into(),
        gone: made.into_iter().filter(|path| !path.exists()).collect(),
        enabled,
    }
}

/// The kernel shows the setting in its first network namespace alone, as it does `dev_weight` beside it (`net_core_table` in
/// net/core/sysctl_net_core.c): where both are absent, nothing is known.
fn jit() -> Option<io::Result<String>> {
    let read = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    let is_unseen = read.is_err() && !Path::new("/proc/sys/net/core/dev_weight").exists();
    (!is_unseen).then_some(read)
}

/// What that means, with what to do about it.
pub(super) fn checks(host: &Host) -> Vec<Check> {
    let Host { bpffs, has_bpffs, is_hosts, btf, jit, has_tcx, lacks, time, free, gone, enabled } = host;
    let mut checks = vec![
        on_bpffs(bpffs, has_bpffs, *is_hosts),
        match btf {
            Ok(bytes) => {
                check("btf", Condition::Good, format!("the kernel has its type information, {bytes} bytes"), "")
            }
            Err(error) => check(
                "btf",
                Condition::Doubtful,
                format!(
                    "cannot see /sys/kernel/btf/vmlinux: {error}: programs with CO-RE, fentry and fexit do not load"
                ),
                "run a kernel that was built with CONFIG_DEBUG_INFO_BTF=y",
            ),
        },
        match has_tcx {
            true => check("tcx", Condition::Good, "programs on tc can be attached by tcx".to_owned(), ""),
            false => check(
                "tcx",
                Condition::Good,
                "this kernel has no tcx (Linux 6.6): programs on tc are filters of a clsact qdisc".to_owned(),
                "",
            ),
        },
        capabilities(lacks),
        match *time >= EARLIEST {
            true => check("clock", Condition::Good, "the clock is later than this program".to_owned(), ""),
            false => check(
                "clock",
                Condition::Doubtful,
                format!(
                    "the clock is at {time} s since 1970, before this program was written: certificates and ages of signatures cannot be judged"
                ),
                "set it: `timedatectl set-ntp true`, or `date -s`",
            ),
        },
    ];
    checks.extend(jit.as_ref().map(|jit| match jit.as_deref().map(str::trim) {
        Ok("0") => check(
            "jit",
            Condition::Doubtful,
            "the kernel interprets programs: they are slow, and some do not load".to_owned(),
            "`sysctl -w net.core.bpf_jit_enable=1`",
        ),
        Ok(value) => check("jit", Condition::Good, format!("bpf_jit_enable is `{value}`"), ""),
        Err(error) => check(
            "jit",
            Condition::Doubtful,
            format!("cannot read /proc/sys/net/core/bpf_jit_enable: {error}"),
            "run a kernel that was built with CONFIG_BPF_JIT=y",
        ),
    }));
    let scarce = free.iter().filter_map(|(directory, free)| match free {
        Ok(bytes) if *bytes >= ROOM => None,
        Ok(bytes) => Some(format!("{} MiB are free for `{}`", bytes >> 20, directory.display())),
        Err(error) => Some(format!("cannot see how much is free for `{}`: {error}", directory.display())),
    });
    let scarce: Vec<String> = scarce.collect();
    checks.push(match scarce.is_empty() {
        true => check("room", Condition::Good, "there is room for the database and the audit log".to_owned(), ""),
        false => check(
            "room",
            Condition::Doubtful,
            scarce.join("; "),
            "free some space: on a full disk nothing is loaded or attached; `bpfctl image rm` removes stored images",
        ),
    });
    checks.push(match gone.as_slice() {
        [] => check("store", Condition::Good, "the database and the objects are there".to_owned(), ""),
        gone => {
            let gone: Vec<String> = gone.iter().map(|path| format!("`{}`", path.display())).collect();
            check(
                "store",
                Condition::Bad,
                format!("somebody removed {}", gone.join(", ")),
                "restart bpfd: what runs stays, and `bpfctl state show` says what differs",
            )
        }
    });
    checks.extend(enabled.map(|enabled| match enabled {
        true => check("units", Condition::Good, "systemd starts bpfd at a boot".to_owned(), ""),
        false => check(
            "units",
            Condition::Doubtful,
            "systemd does not start bpfd at a boot: persistent programs would not come back".to_owned(),
            "`systemctl enable bpfd`",
        ),
    }));
    checks
}

fn on_bpffs(path: &Path, has_bpffs: &io::Result<bool>, is_hosts: Option<bool>) -> Check {
    let path = path.display();
    let bad = |detail: String, hint| check("bpffs", Condition::Bad, detail, hint);
    match (has_bpffs, is_hosts) {
        (Err(error), _) => {
            bad(format!("cannot look at `{path}`: {error}"), "`mount -t bpf bpf /sys/fs/bpf`, then restart bpfd")
        }
        (Ok(false), _) => bad(format!("`{path}` is no bpffs"), "`mount -t bpf bpf /sys/fs/bpf`, then restart bpfd"),
        (Ok(true), Some(false)) => bad(
            format!("the bpffs at `{path}` is not the host's: its pins are gone when bpfd ends"),
            "run bpfd where the host's /sys/fs/bpf is seen: no private mount of it in the unit or the container",
        ),
        (Ok(true), Some(true) | None) => check("bpffs", Condition::Good, format!("`{path}` is a bpffs"), ""),
    }
}

fn capabilities(lacks: &io::Result<Vec<Cap>>) -> Check {
    const HINT: &str = "have the unit or the container give them: `systemctl cat bpfd` shows CapabilityBoundingSet=";
    let bad = |detail| check("capabilities", Condition::Bad, detail, HINT);
    match lacks.as_deref() {
        Ok([]) => check("capabilities", Condition::Good, "bpfd has all that it needs".to_owned(), ""),
        Ok(lacks) => bad(format!("bpfd lacks {}", lacks.iter().map(Cap::to_string).collect::<Vec<_>>().join(", "))),
        Err(error) => bad(format!("cannot read them: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Host {
        Host {
            bpffs: "/sys/fs/bpf".into(),
            has_bpffs: Ok(true),
            is_hosts: Some(true),
            btf: Ok(5_000_000),
            jit: Some(Ok("1\n".to_owned())),
            has_tcx: true,
            lacks: Ok(Vec::new()),
            time: EARLIEST,
            free: vec![("/var/lib/bpfd".into(), Ok(ROOM)), ("/var/log/bpfd".into(), Ok(ROOM))],
            gone: Vec::new(),
            enabled: Some(true),
        }
    }

    /// What is not good, with whether it has a hint.
    fn found(host: &Host) -> Vec<(String, Condition, String, bool)> {
        let checks = checks(host).into_iter().filter(|check| check.condition != Condition::Good);
        checks.map(|Check { id, condition, detail, hint }| (id, condition, detail, !hint.is_empty())).collect()
    }

    #[test]
    fn each_fault_is_found_alone_and_has_a_hint() {
        assert_eq!(found(&good()), []);
        assert_eq!(found(&Host { jit: None, ..good() }), [], "what cannot be seen is no fault");
        let absent = || io::Error::from(io::ErrorKind::NotFound);
        let none = || (PathBuf::from("/var/lib/bpfd"), Err(absent()));
        for (host, id, condition, detail) in [
            (Host { has_bpffs: Ok(false), ..good() }, "bpffs", Condition::Bad, "`/sys/fs/bpf` is no bpffs"),
            (
                Host { has_bpffs: Err(absent()), ..good() },
                "bpffs",
                Condition::Bad,
                "cannot look at `/sys/fs/bpf`: entity not found",
            ),
            (
                Host { is_hosts: Some(false), ..good() },
                "bpffs",
                Condition::Bad,
                "the bpffs at `/sys/fs/bpf` is not the host's: its pins are gone when bpfd ends",
            ),
            (
                Host { btf: Err(absent()), ..good() },
                "btf",
                Condition::Doubtful,
                "cannot see /sys/kernel/btf/vmlinux: entity not found: programs with CO-RE, fentry and fexit do not load",
            ),
            (
                Host { jit: Some(Ok("0\n".to_owned())), ..good() },
                "jit",
                Condition::Doubtful,
                "the kernel interprets programs: they are slow, and some do not load",
            ),
            (
                Host { jit: Some(Err(absent())), ..good() },
                "jit",
                Condition::Doubtful,
                "cannot read /proc/sys/net/core/bpf_jit_enable: entity not found",
            ),
            (
                Host { lacks: Ok(vec![Cap::Perfmon, Cap::SysAdmin]), ..good() },
                "capabilities",
                Condition::Bad,
                "bpfd lacks CAP_PERFMON, CAP_SYS_ADMIN",
            ),
            (
                Host { time: 3600, ..good() },
                "clock",
                Condition::Doubtful,
                "the clock is at 3600 s since 1970, before this program was written: certificates and ages of signatures cannot be judged",
            ),
            (
                Host { free: vec![("/var/lib/bpfd".into(), Ok(ROOM - 1))], ..good() },
                "room",
                Condition::Doubtful,
                "63 MiB are free for `/var/lib/bpfd`",
            ),
            (
                Host { free: vec![none()], ..good() },
                "room",
                Condition::Doubtful,
                "cannot see how much is free for `/var/lib/bpfd`: entity not found",
            ),
            (
                Host { gone: vec!["/var/lib/bpfd/state.db".into()], ..good() },
                "store",
                Condition::Bad,
                "somebody removed `/var/lib/bpfd/state.db`",
            ),
            (
                Host { enabled: Some(false), ..good() },
                "units",
                Condition::Doubtful,
                "systemd does not start bpfd at a boot: persistent programs would not come back",
            ),
        ] {
            assert_eq!(found(&host), [(id.to_owned(), condition, detail.to_owned(), true)]);
        }
    }
}
