//! BPF_PROG_TEST_RUN: runs a loaded program on bytes of ours. EXT programs cannot be run so: run what they extend.
use super::{Address, Command, bpf, length, raw};
use std::io;
use std::os::fd::BorrowedFd;

/// Room for what a program may add to its packet: XDP_PACKET_HEADROOM (256) before it, up to a page behind it.
const GROWTH: usize = 256 + 4096;

/// One run.
#[derive(Clone, Copy, Debug, Default)]
pub struct TestRun<'a> {
    /// The packet; at least 14 bytes for XDP and TC.
    pub data_in: &'a [u8],
    /// The context struct (`struct xdp_md`, …); empty for a made-up one.
    pub context: &'a [u8],
    /// How often; 0 counts as 1.
    pub repeat: u32,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRunResult {
    /// The last verdict.
    pub retval: u32,
    /// The packet after the last run.
    pub data_out: Vec<u8>,
    /// Mean of all runs, nanoseconds.
    pub duration_ns: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: Address,
    data_out: Address,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: Address,
    ctx_out: Address,
    flags: u32,
    cpu: u32,
}

/// Runs the program. `ENOSPC` if it made the packet longer by more than a page, `ENOTSUPP` (524) if its kind cannot be
/// run.
pub fn prog_test_run(fd: BorrowedFd<'_>, run: &TestRun<'_>) -> io::Result<TestRunResult> {
    let TestRun { data_in, context, repeat } = *run;
    // Never empty: with an address and size 0 the kernel copies without a bound (`bpf_test_finish`).
    let mut data_out = vec![0; data_in.len() + GROWTH];
    let mut attr = TestAttr {
        prog_fd: raw(fd),
        data_size_in: length(data_in)?,
        data_in: Address::of(data_in),
        data_size_out: length(&data_out)?,
        data_out: Address::of_mut(&mut data_out),
        repeat,
        ctx_size_in: length(context)?,
        ctx_in: Address::of(context),
        ..TestAttr::default()
    };
    // SAFETY: `TestAttr` is the command's prefix; each address is of a slice that lives past the call, with its own
    // length, and the kernel writes only into `data_out`, never more than its non-zero size.
    unsafe { bpf(Command::PROG_TEST_RUN, &mut attr) }?;
    data_out.truncate(usize::try_from(attr.data_size_out).map_err(io::Error::other)?);
    Ok(TestRunResult { retval: attr.retval, data_out, duration_ns: attr.duration })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_fields_are_where_the_kernel_reads_them() {
        assert_eq!(offset_of!(TestAttr, data_in), 16);
        assert_eq!(offset_of!(TestAttr, duration), 36);
        assert_eq!(offset_of!(TestAttr, ctx_in), 48);
        assert_eq!(size_of::<TestAttr>(), 72);
    }
}
