//! How much of a policy file and of signatures is looked at. Must never grow a bound that a caller can set.

/// Bytes of one file that is written by hand: a few KiB.
pub const CONFIG_FILE: u64 = 1 << 20;
/// Signatures looked at for one image, over all its manifests (endless lists: CVE-2023-46737).
pub const SIGNATURES: usize = 32;
/// Bytes of one signature's payload or bundle.
pub const SIGNATURE: u64 = 1 << 20;
