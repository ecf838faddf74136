//! Fentry and fexit: the entry and the return of a kernel function, by a trampoline. Their programs are loaded for one function.
//!
//! This file must never look whether the kernel has the function.

use std::fmt;

use super::kprobe::KernelFunction;
use super::own::{Own, target_text};
use crate::state::ProgramKind;

/// The entry of a kernel function.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fentry(pub KernelFunction);

/// The return of a kernel function, with its arguments.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fexit(pub KernelFunction);

target_text!(Fentry);
target_text!(Fexit);

impl Own for Fentry {
    const KIND: ProgramKind = ProgramKind::Fentry;
    const NOUN: &'static str = KernelFunction::NOUN;
    const FORM: &'static str = KernelFunction::FORM;
    const LOADED_FOR: Option<fn(&Self) -> &str> = Some(|hook| hook.0.as_str());

    fn read(text: &str) -> Option<Self> {
        KernelFunction::read(text).map(Self)
    }

    fn absent_hint(&self) -> String {
        absent_hint(&self.0)
    }
}

impl fmt::Display for Fentry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Own for Fexit {
    const KIND: ProgramKind = ProgramKind::Fexit;
    const NOUN: &'static str = KernelFunction::NOUN;
    const FORM: &'static str = KernelFunction::FORM;
    const LOADED_FOR: Option<fn(&Self) -> &str> = Some(|hook| hook.0.as_str());

    fn read(text: &str) -> Option<Self> {
        KernelFunction::read(text).map(Self)
    }

    fn absent_hint(&self) -> String {
        absent_hint(&self.0)
    }
}

impl fmt::Display for Fexit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn absent_hint(function: &KernelFunction) -> String {
    format!(
        "`bpftool btf dump file /sys/kernel/btf/vmlinux | grep -w {function}` shows whether this kernel's types have it as FUNC; \
         functions of modules cannot be named yet"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::OwnHook;
    use crate::hook::own::is_fixed_at_load;
    use crate::kernel::LoadAs;

    #[test]
    fn a_program_is_loaded_for_the_function_that_the_hook_names() {
        for word in ["fentry", "fexit"] {
            let hook: OwnHook = format!("{word}:do_unlinkat").parse().unwrap();
            assert_eq!((hook.loaded_for(), hook.to_string()), (Some("do_unlinkat"), format!("{word}:do_unlinkat")));
            assert!(is_fixed_at_load(hook.kind()));
        }
        assert_eq!("kprobe:do_unlinkat".parse::<OwnHook>().unwrap().loaded_for(), None);
        assert!(!is_fixed_at_load(ProgramKind::Kprobe));
    }

    #[test]
    fn what_a_function_is_loaded_as_is_stored_with_its_target_if_it_has_one() {
        let hook: OwnHook = "fexit:do_unlinkat".parse().unwrap();
        for (load_as, stored) in [
            // As every earlier version stored it.
            (LoadAs::Any(ProgramKind::Xdp), r#""xdp""#),
            (LoadAs::For(hook), r#"{"fexit":"do_unlinkat"}"#),
        ] {
            assert_eq!(serde_json::to_string(&load_as).unwrap(), stored);
            assert_eq!(serde_json::from_str::<LoadAs>(stored).unwrap(), load_as);
        }
    }

    #[test]
    fn what_names_no_function_is_refused() {
        for text in ["", "do_unlinkat+0x10", "a/b", "mod:f"] {
            assert!(text.parse::<Fentry>().is_err() && text.parse::<Fexit>().is_err(), "{text}");
        }
    }
}
