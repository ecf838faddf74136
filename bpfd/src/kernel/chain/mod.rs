//! Chains in the kernel: a file or a directory for each back end of `bpfd_core::chain`, what all of them leave pinned, and where they are
//! attached.
//!
//! ```text
//! fused       all members in one program of the interface's own            generation  pins and records of each back end
//! libxdp      a dispatcher with a slot a program, shared with peers         xdp         what an interface runs, and its compare-and-swap
//! alone       one member, as it is                                          sequence    what a tc hook runs
//! tcx         a link a program in the kernel's own chain                    clsact      a filter a program
//! ```
//! This module must never decide what a chain should run.

pub(crate) mod alone;
pub(crate) mod clsact;
pub(crate) mod fused;
pub(crate) mod generation;
pub(crate) mod libxdp;
pub(crate) mod sequence;
pub(crate) mod tcx;
pub(crate) mod xdp;
