//! Which licence strings the kernel takes for GPL-compatible. Owns that list only; it must never guess what a string
//! outside it means.

/// The strings of `license_is_gpl_compatible` in the kernel's `include/linux/license.h`.
pub const GPL_COMPATIBLE: [&str; 6] =
    ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"];

/// Whether the kernel lets a program under this licence call its GPL-only helpers. Exact, case included.
pub fn is_gpl_compatible(license: &str) -> bool {
    GPL_COMPATIBLE.contains(&license)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_strings_are_compatible() {
        for (license, compatible) in
            [("GPL", true), ("Dual BSD/GPL", true), ("gpl", false), ("GPLv2", false), ("", false)]
        {
            assert_eq!(is_gpl_compatible(license), compatible, "{license}");
        }
    }
}
