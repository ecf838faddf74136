//! Bounds-checked little-endian reads and writes at an offset. Must never panic and never read past its slice.

/// The longest name or string that is looked for before its NUL: a table without one must not cost a scan of the whole
/// object for every symbol. The kernel's own limit for a BTF name is 511 (`KSYM_NAME_LEN`); mangled names are longer.
pub(crate) const MAX_STRING: usize = 4096;

/// The `N` bytes at `at`, if they are all there.
pub(crate) fn array_at<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A `u16` at `at`.
pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    array_at(data, at).map(u16::from_le_bytes)
}

/// A `u32` at `at`.
pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    array_at(data, at).map(u32::from_le_bytes)
}

/// Overwrites the bytes at `at`; `None` if they do not fit.
pub(crate) fn put(data: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    data.get_mut(at..at.checked_add(bytes.len())?)?.copy_from_slice(bytes);
    Some(())
}

/// The bytes from `at` up to (not with) a NUL, which must come within [`MAX_STRING`].
pub(crate) fn string_at(data: &[u8], at: usize) -> Option<&[u8]> {
    let rest = data.get(at..)?;
    let window = rest.get(..rest.len().min(MAX_STRING))?;
    // Not `position`: this one looks at many bytes at once, and hostile tables make it look often.
    std::ffi::CStr::from_bytes_until_nul(window).ok().map(std::ffi::CStr::to_bytes)
}

/// A kernel-side or ELF 32-bit offset as an index. Exact on every target this builds for (32 bits and more).
pub(crate) fn index(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A length as the 32-bit number that kernel formats hold; lengths here are bounded far below its end.
pub(crate) fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_the_end_are_none() {
        assert_eq!(u32_at(&[1, 0, 0, 0], 0), Some(1));
        assert_eq!(u32_at(&[1, 0, 0, 0], 1), None);
        assert_eq!(u32_at(&[1, 0, 0, 0], usize::MAX), None);
        assert_eq!(u16_at(&[], 0), None);
    }

    #[test]
    fn a_string_ends_at_its_nul_or_is_none() {
        assert_eq!(string_at(b"ab\0cd", 0), Some(&b"ab"[..]));
        assert_eq!(string_at(b"ab\0cd", 3), None);
        assert_eq!(string_at(&[b'x'; 2 * MAX_STRING], 0), None);
    }
}
