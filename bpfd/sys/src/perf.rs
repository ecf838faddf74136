//! Perf events, for one purpose: the tracepoint or kernel function that a program is attached to. Must never read samples.
use crate::bpf;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// `PERF_TYPE_TRACEPOINT`, `PERF_FLAG_FD_CLOEXEC`, ioctls (include/uapi/linux/perf_event.h).
const TYPE_TRACEPOINT: u32 = 2;
const FLAG_CLOEXEC: u64 = 8;
const IOC_ENABLE: u64 = 0x2400;
const IOC_SET_BPF: u64 = 0x4004_2408;

/// Where the kernel says under which number it takes events on its functions. Absent if it was built without them.
const KPROBE_PMU: &str = "/sys/bus/event_source/devices/kprobe";

/// `struct perf_event_attr`, its second published version (`PERF_ATTR_SIZE_VER1`), which every kernel since 2.6.33 takes.
#[repr(C)]
#[derive(Default)]
struct PerfEventAttr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    /// Of a kernel function: the address of its name.
    config1: bpf::Address,
    /// Of a kernel function: the offset.
    config2: u64,
}

/// The kernel's number of `category:event`, from a mounted tracefs. `ENOENT` if there is no such event; reading needs
/// root or CAP_DAC_READ_SEARCH.
pub fn tracepoint_id(tracefs: &Path, category: &str, event: &str) -> io::Result<u64> {
    for name in [category, event] {
        if name.is_empty() || name.contains(['/', '\0']) || name == "." || name == ".." {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
    }
    let path = tracefs.join("events").join(category).join(event).join("id");
    std::fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}

/// An open, running perf event of that tracepoint. A program attached to it runs on all CPUs, whatever CPU is named
/// here (`perf_event_attach_bpf_prog`, kernel/trace/bpf_trace.c).
pub fn open_tracepoint(id: u64) -> io::Result<OwnedFd> {
    open(PerfEventAttr { kind: TYPE_TRACEPOINT, config: id, ..PerfEventAttr::default() }, None)
}

/// How this kernel takes events on its functions.
#[derive(Clone, Copy, Debug)]
pub struct KprobePmu {
    kind: u32,
    /// The bit of `config` that asks for the function's return.
    return_bit: u32,
}

/// Where in a kernel function an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// At so many bytes from the function's first.
    At(u64),
    /// Where the function returns.
    Return,
}

/// Reads the numbers from sysfs; `None` if the kernel was built without CONFIG_KPROBE_EVENTS.
pub fn kprobe_pmu() -> io::Result<Option<KprobePmu>> {
    let pmu = Path::new(KPROBE_PMU);
    let kind = match std::fs::read_to_string(pmu.join("type")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?.trim().parse().map_err(io::Error::other)?,
    };
    let format = std::fs::read_to_string(pmu.join("format/retprobe"))?;
    let return_bit = format.trim().strip_prefix("config:").and_then(|bit| bit.parse().ok()).filter(|bit| *bit < 64);
    let return_bit = return_bit.ok_or_else(|| io::Error::other(format!("format/retprobe is `{}`", format.trim())))?;
    Ok(Some(KprobePmu { kind, return_bit }))
}

/// An open, running perf event of a kernel function, on all CPUs. `ENOENT` if the kernel has no such function, or `E2BIG` if its
/// name is too long; `EADDRNOTAVAIL` if several have that name; `EINVAL` or `EILSEQ` if there can be no probe at that place.
pub fn open_kprobe(pmu: KprobePmu, function: &CStr, probe: Probe) -> io::Result<OwnedFd> {
    let (config, config2) = match probe {
        Probe::At(offset) => (0, offset),
        Probe::Return => (1 << pmu.return_bit, 0),
    };
    open(PerfEventAttr { kind: pmu.kind, config, config2, ..PerfEventAttr::default() }, Some(function))
}

fn open(attr: PerfEventAttr, name: Option<&CStr>) -> io::Result<OwnedFd> {
    let size = u32::try_from(size_of::<PerfEventAttr>()).map_err(io::Error::other)?;
    let config1 = bpf::Address::of(name.map_or(&[], CStr::to_bytes_with_nul));
    let attr = PerfEventAttr { size, config1, ..attr };
    let (all, first_cpu, alone) = (-1_i32, 0_i32, -1_i32);
    // SAFETY: `attr` is live and as large as its `size` says; `config1` is null or a text that ends in NUL and outlives
    // the call; the kernel only reads both.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, all, first_cpu, alone, FLAG_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches without a link, for kernels before 5.15: the program stays until `event` is closed, and cannot be pinned.
pub fn attach_by_ioctl(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    for (request, argument) in [(IOC_SET_BPF, program.as_raw_fd()), (IOC_ENABLE, 0)] {
        // SAFETY: both requests take a number, no address.
        if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Attaches a program to the event by a link that can be pinned (Linux 5.15).
pub fn attach(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    bpf::link_create_perf(program, event, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attr_has_the_size_of_its_second_version() {
        assert_eq!(size_of::<PerfEventAttr>(), 72);
    }

    #[test]
    fn an_event_name_cannot_leave_the_tracefs() {
        for (category, event) in [("..", "x"), ("sched", "../x"), ("", "x"), ("sched", "")] {
            let refused = tracepoint_id(Path::new("/"), category, event).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EINVAL), "{category}:{event}");
        }
    }
}
