//! The systemd unit of a caller, as `sd_pid_get_unit` tells it: from the control group of the process that connected, while that process
//! is known to live. Must never believe a control group that somebody else than systemd could have made.
//!
//! A number of a process may be another one's by the time that it is looked up. The kernel gives a descriptor of the process that connected
//! (SO_PEERPIDFD, Linux 6.5): the group is read by the number in that, and counts if the process is still there afterwards. Without the
//! descriptor there is no unit.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use bpfd_core::policy::Unit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What names of units end in that hold processes (systemd.unit(5)); slices hold other units.
const SUFFIXES: [&str; 2] = [".service", ".scope"];
/// Longest name of a unit, in bytes (`UNIT_NAME_MAX` of systemd's src/basic/unit-name.h).
const UNIT_MAX: usize = 255;

/// The unit of the process that a descriptor stands for.
pub(super) fn of_process(process: Option<&OwnedFd>) -> Unit {
    process.and_then(unit).map_or(Unit::None, Unit::Is)
}

fn unit(process: &OwnedFd) -> Option<String> {
    let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    // -1 once it was reaped, 0 in another namespace of processes (`pidfd_show_fdinfo` of kernel/fork.c).
    let pid: u32 = facts.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    (pid != 0 && lives(process)).then(|| of_group(&group)).flatten()
}

/// A descriptor of a process is readable once the process has ended (pidfd_open(2)).
fn lives(process: &OwnedFd) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// The unit in the text of `/proc/PID/cgroup`: below slices, the first part of the path. What is below that belongs to the unit: a user
/// may make groups of any name under `user@1000.service`, and all of them are that unit (`cg_path_get_unit` of systemd's
/// src/basic/cgroup-util.c).
fn of_group(text: &str) -> Option<String> {
    let path = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
    // The unified hierarchy, else systemd's own of a host that has both.
    let systemd = text.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path));
    let path = systemd.or_else(|| path("0::"))?;
    let part = path.strip_prefix('/')?.split('/').find(|part| !is_slice(part))?;
    let named = part.len() <= UNIT_MAX && !part.starts_with('.') && !part.starts_with('_');
    let (stem, _) = part.rsplit_once('.')?;
    (named && !stem.is_empty() && SUFFIXES.iter().any(|suffix| part.ends_with(suffix))).then(|| part.to_owned())
}

fn is_slice(part: &str) -> bool {
    part.strip_suffix(".slice").is_some_and(|stem| !stem.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_below_slices_is_the_unit() {
        for (group, unit) in [
            ("0::/system.slice/cni.service\n", Some("cni.service")),
            ("0::/system.slice/system-cni.slice/cni@a.service\n", Some("cni@a.service")),
            ("0::/system.slice/cni.service/sub/other.service\n", Some("cni.service")),
            ("0::/init.scope\n", Some("init.scope")),
            ("0::/user.slice/user-1000.slice/session-2.scope\n", Some("session-2.scope")),
            // Somebody's own service of a well-known name.
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/cni.service\n", Some("user@1000.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/system.slice/cni.service\n", Some("user@1000.service")),
            // Both hierarchies: systemd's own counts.
            ("1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n", Some("a.service")),
            ("4:cpu:/system.slice/a.service\n", None),
            // Containers and other managers.
            ("0::/kubepods.slice/cri-containerd-1.scope\n", Some("cri-containerd-1.scope")),
            ("0::/docker/0123\n", None),
            ("0::/../../cni.service\n", None),
            ("0::/\n", None),
            ("0::/system.slice\n", None),
            ("0::/.slice/cni.service\n", None),
            ("0::/.service\n", None),
            ("", None),
        ] {
            assert_eq!(of_group(group).as_deref(), unit, "{group}");
        }
    }

    #[test]
    fn a_process_that_ended_is_in_no_unit() {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        assert!(lives(&own));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!lives(&process));
        assert_eq!((of_process(Some(&process)), of_process(None)), (Unit::None, Unit::None));
    }
}
