//! BPF_PROG_LOAD, and the verifier's log, which is asked for only after a refusal.
//!
//! It never passes `fd_array`, a token or CO-RE records: instructions arrive finished.
use super::{Address, AttachType, BtfTypeId, Command, ProgramType, bpf, bpf_fd, length, object_name, raw, text};
use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Log buffers tried in turn. 16 MiB - 1 is the largest every kernel takes (`UINT_MAX >> 8` before 5.16,
/// kernel/bpf/verifier.c); each retry verifies once more, so the steps are coarse.
const LOG_SIZES: [usize; 3] = [64 << 10, 1 << 20, (16 << 20) - 1];

/// A load interrupted by a signal gives `EAGAIN`; libbpf tries five times as well (`PROG_LOAD_ATTEMPTS`).
const ATTEMPTS: u32 = 5;

/// One program to load. [`ProgLoad::new`] leaves everything optional empty.
#[derive(Clone, Copy, Debug)]
pub struct ProgLoad<'a> {
    /// What the verifier checks it as.
    pub kind: ProgramType,
    /// Checked by the kernel for some kinds; [`AttachType::NONE`] for EXT.
    pub expected_attach_type: AttachType,
    /// Cut at 15 bytes; the kernel refuses anything but letters, digits, `_` and `.`.
    pub name: &'a str,
    /// Units of 8 bytes, host byte order; `EINVAL` for any other length.
    pub insns: &'a [u8],
    /// `GPL` and its kin open GPL-only helpers.
    pub license: &'a CStr,
    /// BTF of the program: needed for line information, global functions and EXT.
    pub btf: Option<ProgBtf<'a>>,
    /// What an EXT, tracing or LSM program attaches to.
    pub target: Option<Target<'a>>,
    /// `BPF_F_*` program flags.
    pub flags: u32,
    /// The device of a device-bound program; 0 for all others.
    pub ifindex: u32,
}

impl<'a> ProgLoad<'a> {
    /// A program without name, BTF, target, flags and attach type.
    pub fn new(kind: ProgramType, license: &'a CStr, insns: &'a [u8]) -> Self {
        let expected_attach_type = AttachType::NONE;
        Self { kind, expected_attach_type, name: "", insns, license, btf: None, target: None, flags: 0, ifindex: 0 }
    }
}

/// A loaded BTF object and the records that tie instructions to it.
#[derive(Clone, Copy, Debug)]
pub struct ProgBtf<'a> {
    /// From [`super::btf_load`].
    pub fd: BorrowedFd<'a>,
    /// `struct bpf_func_info` records.
    pub func_info: Records<'a>,
    /// `struct bpf_line_info` records.
    pub line_info: Records<'a>,
}

/// An array of records of one size, as .BTF.ext has them.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    /// A multiple of `record_size`; `EINVAL` otherwise.
    pub bytes: &'a [u8],
    /// Bytes a record.
    pub record_size: u32,
}

impl Records<'_> {
    /// No records.
    pub const NONE: Self = Self { bytes: &[], record_size: 0 };

    fn count(&self) -> io::Result<u32> {
        let size = usize::try_from(self.record_size).map_err(io::Error::other)?;
        match self.bytes.len().checked_rem(size) {
            None if self.bytes.is_empty() => Ok(0),
            Some(0) => u32::try_from(self.bytes.len() / size).map_err(io::Error::other),
            _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }
}

/// What a program is attached to already when it is loaded.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A function of another program: EXT, or fentry/fexit on a program.
    Program {
        /// The program that has the function.
        fd: BorrowedFd<'a>,
        /// The function in that program's BTF.
        function: BtfTypeId,
    },
    /// A function of the kernel itself.
    Kernel {
        /// The function in the kernel's BTF.
        function: BtfTypeId,
    },
}

/// The kernel refused a program or a BTF object. The log is not part of the text: it can be megabytes.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused to load it")]
pub struct LoadError {
    /// The kernel's error. If the log was cut, that of the try without a log: a log that does not fit would hide it.
    #[source]
    pub error: io::Error,
    /// What the verifier said; empty if it was not reached.
    pub log: String,
    /// The log was longer than the largest buffer: kernels from 6.4 keep its end, older ones its beginning.
    pub log_cut: bool,
}

impl LoadError {
    /// The kernel's errno; 0 if the request was refused before the call.
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }

    fn without_log(error: io::Error) -> Self {
        Self { error, log: String::new(), log_cut: false }
    }
}

/// The prefix of `union bpf_attr` for BPF_PROG_LOAD up to `core_relo_cnt`, which stays zero.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: Address,
    license: Address,
    log_level: u32,
    log_size: u32,
    log_buf: Address,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: Address,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: Address,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    core_relo_cnt: u32,
}

impl LoadAttr {
    fn of(program: &ProgLoad<'_>) -> io::Result<Self> {
        let ProgLoad { kind, expected_attach_type, name, insns, license, btf, target, flags, ifindex } = *program;
        if insns.len() % 8 != 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut attr = Self {
            prog_type: kind.0,
            insn_cnt: length(insns)? / 8,
            insns: Address::of(insns),
            license: Address::of(license.to_bytes_with_nul()),
            prog_flags: flags,
            prog_name: object_name(name),
            prog_ifindex: ifindex,
            expected_attach_type: expected_attach_type.0,
            ..Self::default()
        };
        if let Some(ProgBtf { fd, func_info, line_info }) = btf {
            attr.prog_btf_fd = raw(fd);
            attr.func_info = Address::of(func_info.bytes);
            attr.func_info_cnt = func_info.count()?;
            attr.func_info_rec_size = func_info.record_size;
            attr.line_info = Address::of(line_info.bytes);
            attr.line_info_cnt = line_info.count()?;
            attr.line_info_rec_size = line_info.record_size;
        }
        match target {
            Some(Target::Program { fd, function }) => {
                attr.attach_prog_fd = raw(fd);
                attr.attach_btf_id = function.0;
            }
            Some(Target::Kernel { function }) => attr.attach_btf_id = function.0,
            None => {}
        }
        Ok(attr)
    }
}

/// Loads a program. On refusal it is loaded again with a log, in up to three growing buffers; if that succeeds (memory
/// was short for a moment), so does this.
pub fn prog_load(program: &ProgLoad<'_>) -> Result<OwnedFd, LoadError> {
    load_then_ask_why(|level, log| attempt(program, level, log))
}

#[repr(C)]
struct BindMapAttr {
    prog_fd: u32,
    map_fd: u32,
    flags: u32,
}

/// Makes a program refer to a map that its instructions do not name, for as long as it lives (Linux 5.10).
pub fn prog_bind_map(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = BindMapAttr { prog_fd: raw(program), map_fd: raw(map), flags: 0 };
    // SAFETY: `BindMapAttr` is the command's prefix and holds no address.
    unsafe { bpf(Command::PROG_BIND_MAP, &mut attr) }.map(|_zero| ())
}

/// Loads a program and keeps the log of its verification. `level` is a sum of 1 (instructions), 2 (all states) and
/// 4 (statistics, with the `stack depth` line). `ENOSPC` if the log does not fit into 16 MiB.
pub fn prog_load_with_log(program: &ProgLoad<'_>, level: u32) -> Result<(OwnedFd, String), LoadError> {
    load_logged(level, &mut |level, log| attempt(program, level, log))
}

fn attempt(program: &ProgLoad<'_>, level: u32, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr::of(program)?;
    attr.log_level = level;
    attr.log_size = length(log)?;
    attr.log_buf = Address::of_mut(log);
    // SAFETY: `LoadAttr` is the command's prefix; its addresses are of slices that `program` and `log` borrow past the
    // call, with counts computed from those slices, and `license` ends in NUL; the kernel writes only into `log`.
    unsafe { bpf_fd(Command::PROG_LOAD, &mut attr) }
}

/// One try of a load: log level and buffer, level 0 with an empty buffer for none.
type Attempt<'a> = dyn FnMut(u32, &mut [u8]) -> io::Result<OwnedFd> + 'a;

/// Tries without a log, which costs the least, and repeats with one if refused.
pub(super) fn load_then_ask_why(
    mut attempt: impl FnMut(u32, &mut [u8]) -> io::Result<OwnedFd>,
) -> Result<OwnedFd, LoadError> {
    match patiently(0, &mut [], &mut attempt) {
        Ok(fd) => Ok(fd),
        Err(error) if error.raw_os_error().is_none() => Err(LoadError::without_log(error)),
        Err(first) => match load_logged(1, &mut attempt) {
            Ok((fd, _log)) => Ok(fd),
            // A full buffer hides the reason; the try without a buffer has it.
            Err(refused) if refused.log_cut => Err(LoadError { error: first, ..refused }),
            Err(refused) => Err(refused),
        },
    }
}

fn load_logged(level: u32, attempt: &mut Attempt<'_>) -> Result<(OwnedFd, String), LoadError> {
    let mut refusal = LoadError::without_log(io::Error::from_raw_os_error(libc::ENOSPC));
    for size in LOG_SIZES {
        let mut log = vec![0; size];
        match patiently(level, &mut log, attempt) {
            Ok(fd) => return Ok((fd, text(&log))),
            Err(error) => {
                let log_cut = error.raw_os_error() == Some(libc::ENOSPC);
                refusal = LoadError { error, log: text(&log), log_cut };
                if !log_cut {
                    break;
                }
            }
        }
    }
    Err(refusal)
}

fn patiently(level: u32, log: &mut [u8], attempt: &mut Attempt<'_>) -> io::Result<OwnedFd> {
    let mut result = attempt(level, log);
    for _ in 1..ATTEMPTS {
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => result = attempt(level, log),
            _ => break,
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_fields_are_where_the_kernel_reads_them() {
        assert_eq!(offset_of!(LoadAttr, log_level), 24);
        assert_eq!(offset_of!(LoadAttr, prog_name), 48);
        assert_eq!(offset_of!(LoadAttr, expected_attach_type), 68);
        assert_eq!(offset_of!(LoadAttr, func_info), 80);
        assert_eq!(offset_of!(LoadAttr, line_info), 96);
        assert_eq!(offset_of!(LoadAttr, attach_prog_fd), 112);
        assert_eq!(size_of::<LoadAttr>(), 120);
    }

    #[test]
    fn half_an_instruction_and_half_a_record_are_refused_before_the_call() {
        let program = ProgLoad::new(ProgramType::XDP, c"GPL", &[0; 12]);
        let refused = prog_load(&program).unwrap_err();
        assert_eq!((refused.errno(), refused.log.as_str()), (libc::EINVAL, ""));
        assert!(Records { bytes: &[0; 9], record_size: 8 }.count().is_err());
        assert!(Records { bytes: &[0; 9], record_size: 0 }.count().is_err());
        assert_eq!(Records { bytes: &[0; 16], record_size: 8 }.count().unwrap(), 2);
        assert_eq!(Records::NONE.count().unwrap(), 0);
    }

    fn errno(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn the_log_grows_until_it_fits_and_the_reason_is_kept() {
        let mut sizes = Vec::new();
        let refused = load_then_ask_why(|level, log| {
            sizes.push((level, log.len()));
            if let Some(first) = log.first_mut() {
                *first = b'x';
            }
            Err(errno(if (1..1 << 20).contains(&log.len()) { libc::ENOSPC } else { libc::EACCES }))
        })
        .unwrap_err();
        assert_eq!(sizes, [(0, 0), (1, 64 << 10), (1, 1 << 20)]);
        assert_eq!((refused.errno(), refused.log.as_str(), refused.log_cut), (libc::EACCES, "x", false));
    }

    #[test]
    fn a_log_too_long_for_the_largest_buffer_is_marked_and_keeps_the_first_errno() {
        let refused = load_then_ask_why(|_, log| Err(errno(if log.is_empty() { libc::E2BIG } else { libc::ENOSPC })))
            .unwrap_err();
        assert_eq!((refused.errno(), refused.log_cut), (libc::E2BIG, true));
    }

    #[test]
    fn an_interrupted_load_is_tried_five_times() {
        let mut tries = 0;
        let error = patiently(0, &mut [], &mut |_, _| {
            tries += 1;
            Err(errno(libc::EAGAIN))
        });
        assert_eq!((tries, error.unwrap_err().raw_os_error()), (5, Some(libc::EAGAIN)));
    }
}
