//! Kprobes and kretprobes: an instruction of a kernel function, and its return.
//!
//! This file must never look whether the kernel has the function.

use std::fmt;
use std::str::FromStr;

use super::own::{BadTarget, Own, target_text};
use crate::names::printable;
use crate::state::ProgramKind;

/// The name of a kernel function, as in /proc/kallsyms.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KernelFunction(String);

/// Bytes of a name: `KSYM_NAME_LEN` (include/linux/kallsyms.h) is 512 with the NUL, and less before Linux 6.1.
const FUNCTION_MAX: usize = 511;

impl KernelFunction {
    /// What a function is called in errors.
    pub const NOUN: &'static str = "kernel function";
    /// How it is written.
    pub const FORM: &'static str = "FUNCTION, as in `do_unlinkat`";

    /// The function that a text names: in the characters that libbpf takes in section names.
    pub fn read(text: &str) -> Option<Self> {
        let valid = (1..=FUNCTION_MAX).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
        valid.then(|| Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KernelFunction {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let bad = || BadTarget::Form { text: printable(text), noun: Self::NOUN, form: Self::FORM };
        Self::read(text).ok_or_else(bad)
    }
}

impl fmt::Display for KernelFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An instruction of a kernel function.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Kprobe {
    /// Which function.
    pub function: KernelFunction,
    /// Bytes from its first: `struct kprobe` (include/linux/kprobes.h) has 32 bits for it.
    pub offset: u32,
}

/// The return of a kernel function.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Kretprobe(pub KernelFunction);

target_text!(Kprobe);
target_text!(Kretprobe);

impl Own for Kprobe {
    const KIND: ProgramKind = ProgramKind::Kprobe;
    const NOUN: &'static str = KernelFunction::NOUN;
    const FORM: &'static str = "FUNCTION or FUNCTION+OFFSET, as in `do_unlinkat` or `do_unlinkat+0x10`";

    fn read(text: &str) -> Option<Self> {
        let (function, offset) = match text.split_once('+') {
            Some((function, offset)) => (function, read_offset(offset)?),
            None => (text, 0),
        };
        Some(Self { function: KernelFunction::read(function)?, offset })
    }

    fn absent_hint(&self) -> String {
        absent_hint(&self.function)
    }
}

impl fmt::Display for Kprobe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { function, offset } = self;
        match offset {
            0 => write!(f, "{function}"),
            offset => write!(f, "{function}+{offset:#x}"),
        }
    }
}

impl Own for Kretprobe {
    const KIND: ProgramKind = ProgramKind::Kretprobe;
    const NOUN: &'static str = KernelFunction::NOUN;
    const FORM: &'static str = KernelFunction::FORM;

    fn read(text: &str) -> Option<Self> {
        KernelFunction::read(text).map(Self)
    }

    fn absent_hint(&self) -> String {
        absent_hint(&self.0)
    }
}

impl fmt::Display for Kretprobe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An offset, decimal or with `0x`. What libbpf would read as octal is refused.
pub fn read_offset(text: &str) -> Option<u32> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let octal = radix == 10 && digits.len() > 1 && digits.starts_with('0');
    // `from_str_radix` takes a sign.
    let valid = !octal && digits.chars().all(|c| c.is_digit(radix));
    valid.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

fn absent_hint(function: &KernelFunction) -> String {
    format!(
        "`grep -w {function} /proc/kallsyms` shows whether there is one, and only one, of that name; \
         those in /sys/kernel/debug/kprobes/blacklist, and places within an instruction, cannot be probed"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_and_an_offset_are_read_as_sections_write_them() {
        for (text, function, offset, shown) in [
            ("do_unlinkat", "do_unlinkat", 0, "do_unlinkat"),
            ("do_unlinkat+0", "do_unlinkat", 0, "do_unlinkat"),
            ("do_unlinkat+16", "do_unlinkat", 16, "do_unlinkat+0x10"),
            ("foo.constprop.0+0x1F", "foo.constprop.0", 31, "foo.constprop.0+0x1f"),
        ] {
            let hook: Kprobe = text.parse().unwrap();
            assert_eq!((hook.function.as_str(), hook.offset, hook.to_string().as_str()), (function, offset, shown));
            assert_eq!(shown.parse(), Ok(hook));
        }
        let longest = "x".repeat(FUNCTION_MAX);
        assert_eq!(longest.parse::<Kretprobe>().unwrap().to_string(), longest);
    }

    #[test]
    fn what_names_no_instruction_is_refused() {
        for text in [
            "",
            "+4",
            "f+",
            "f++4",
            "f+-4",
            "f+010",
            "f+0x",
            "f+0x100000000",
            "f+4294967296",
            "a b",
            "a/b",
            "mod:f",
            "é",
        ] {
            assert!(text.parse::<Kprobe>().is_err(), "{text}");
        }
        assert!("x".repeat(FUNCTION_MAX + 1).parse::<Kprobe>().is_err());
        assert!("do_unlinkat+0".parse::<Kretprobe>().is_err(), "a return has no offset");
    }
}
