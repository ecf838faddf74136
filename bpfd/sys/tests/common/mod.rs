//! What the tests against the real kernel share: programs of two instructions, network namespaces that die with their
//! thread, `ip`. No case is here.
use bpfd_sys::bpf::{self, AttachType, ProgLoad, ProgramType};
use rustix::thread::UnshareFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

/// `r0 = value; exit`.
pub(crate) fn returning(value: u32) -> Vec<u8> {
    let mut insns = vec![0xb7, 0, 0, 0];
    insns.extend(value.to_ne_bytes());
    insns.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
    insns
}

pub(crate) fn load(kind: ProgramType, eat: AttachType, name: &str, insns: &[u8]) -> Result<OwnedFd, bpf::LoadError> {
    bpf::prog_load(&ProgLoad { expected_attach_type: eat, name, ..ProgLoad::new(kind, c"GPL", insns) })
}

pub(crate) fn program_id(fd: &OwnedFd) -> bpf::ProgId {
    bpf::prog_info(fd.as_fd()).unwrap().id
}

/// New namespaces for the calling thread.
#[expect(unsafe_code, reason = "unshare(2) can break what relies on shared descriptors")]
pub(crate) fn unshare(flags: UnshareFlags) {
    // SAFETY: the descriptor table (`CLONE_FILES`) stays shared, which is what callers of safe code rely on.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
}

/// Runs `work` in a thread with a network namespace of its own, which dies with the thread.
pub(crate) fn in_own_netns<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(UnshareFlags::NEWNET);
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}
