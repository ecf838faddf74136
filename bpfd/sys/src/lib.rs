//! Every system call bpfd makes itself, as thin typed functions: bpf(2), perf events, rtnetlink, network namespaces,
//! peer credentials, bpffs, sealed files, channels to workers and their confinement.
//!
//! The only crate of the tree with `unsafe`: each block is a few lines under a `SAFETY` comment. It decides nothing,
//! logs nothing, keeps no global state and never waits on a network. Errors keep the kernel's errno
//! ([`std::io::Error::raw_os_error`]). 64-bit Linux only: addresses are passed to the kernel as `u64`.
#![expect(unsafe_code, reason = "bpf(2), perf_event_open(2), pre_exec and a few socket options have no safe wrapper")]

pub mod bpf;
pub mod bpffs;
pub mod caps;
pub mod channel;
pub mod confine;
pub mod netlink;
pub mod netns;
pub mod nss;
pub mod peer;
pub mod perf;
pub mod seal;
mod sockopt;
pub mod worker;
