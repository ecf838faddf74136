//! Values of `__kconfig` externs: from the text of the kernel's configuration, or from what is known of the kernel, by libbpf's rules
//! (`set_kcfg_value_*` and `bpf_object__resolve_externs` in its `libbpf.c`). It must never cut a number, nor invent a value that the
//! kernel does not state.

use serde::{Deserialize, Serialize};

use crate::externs::{ConfigOption, ConfigType, KernelFunctions};
use crate::names::shown;

/// What the running kernel is, as far as externs ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelConfig<'a> {
    /// `LINUX_KERNEL_VERSION`: `KERNEL_VERSION(major, minor, patch)`.
    pub version: u32,
    /// `LINUX_HAS_BPF_COOKIE`: whether programs may call `bpf_get_attach_cookie`.
    pub bpf_cookie: bool,
    /// `LINUX_HAS_SYSCALL_WRAPPER`: whether functions of system calls are called `__x64_sys_…` and the like.
    pub syscall_wrapper: bool,
    /// Its configuration: lines of `CONFIG_NAME=value`. `None` if the host does not have it.
    pub options: Option<&'a str>,
    /// Of the functions that the object declares `__ksym`, those that it may call. `None`: none.
    pub functions: Option<&'a KernelFunctions>,
}

/// An option that has no value, or none of the type that the object declares.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ConfigError {
    /// The host does not say how its kernel was configured.
    #[error(
        "needs `{0}` of the kernel's configuration, which this host has neither in /proc/config.gz nor in /boot: let \
         the object declare it `__weak` to run without it"
    )]
    NoConfig(String),
    /// The kernel was built without it.
    #[error(
        "needs `{0}`, which this kernel's configuration does not set: let the object declare it `__weak` to run without it"
    )]
    NotSet(String),
    /// Neither an option nor something that libbpf states.
    #[error("needs `{0}`, which is neither an option of the kernel (CONFIG_…) nor a value that loaders supply")]
    Unknown(String),
    /// The declaration fits no value.
    #[error("declares `{name}` as {declared}, and this kernel has `{value}`")]
    Type {
        /// The option.
        name: String,
        /// What the object takes.
        declared: String,
        /// What the configuration has.
        value: String,
    },
}

impl KernelConfig<'_> {
    /// The bytes of an option's value; all zero for a weak one that the kernel does not have.
    pub(crate) fn value(&self, option: &ConfigOption<'_>, weak: bool) -> Result<Vec<u8>, ConfigError> {
        let name = || shown(option.name);
        let number = match option.name {
            "LINUX_KERNEL_VERSION" => Some(u64::from(self.version)),
            "LINUX_HAS_BPF_COOKIE" => Some(self.bpf_cookie.into()),
            "LINUX_HAS_SYSCALL_WRAPPER" => Some(self.syscall_wrapper.into()),
            _ => None,
        };
        if let Some(number) = number {
            return integer(option, number).ok_or_else(|| mismatch(option, &number.to_string()));
        }
        let absent = || vec![0; crate::bytes::index(option.size)];
        if !option.name.starts_with("CONFIG_") {
            let known = weak && option.name.starts_with("LINUX_");
            return if known { Ok(absent()) } else { Err(ConfigError::Unknown(name())) };
        }
        let Some(options) = self.options else {
            return if weak { Ok(absent()) } else { Err(ConfigError::NoConfig(name())) };
        };
        let stated = options.lines().filter_map(|line| line.split_once('='));
        let stated = stated.filter(|(word, _)| *word == option.name).map(|(_, value)| value.trim_end()).next();
        match stated {
            Some(value) => stated_value(option, value).ok_or_else(|| mismatch(option, value)),
            None if weak => Ok(absent()),
            None => Err(ConfigError::NotSet(name())),
        }
    }
}

fn mismatch(option: &ConfigOption<'_>, value: &str) -> ConfigError {
    let declared = match option.ty {
        ConfigType::Bool => "a bool".to_owned(),
        ConfigType::Char => "a char".to_owned(),
        ConfigType::Tristate => "an enum libbpf_tristate".to_owned(),
        ConfigType::Int { .. } => format!("an integer of {} bytes", option.size),
        ConfigType::Text => format!("a text of {} bytes", option.size),
        ConfigType::Unknown => "a type that no option has".to_owned(),
    };
    ConfigError::Type { name: shown(option.name), declared, value: shown(value) }
}

/// The value of a line of the configuration: `y`, `m`, `n`, a text in quotation marks, or a number.
fn stated_value(option: &ConfigOption<'_>, value: &str) -> Option<Vec<u8>> {
    let letter = |letter: u8| match option.ty {
        ConfigType::Bool if letter != b'm' => Some(vec![u8::from(letter == b'y')]),
        ConfigType::Char => Some(vec![letter]),
        // `enum libbpf_tristate` is no, yes, module.
        ConfigType::Tristate => {
            let number: u32 = match letter {
                b'y' => 1,
                b'm' => 2,
                _ => 0,
            };
            Some(number.to_le_bytes().to_vec())
        }
        _ => None,
    };
    match value.as_bytes() {
        [one @ (b'y' | b'n' | b'm')] => letter(*one),
        [b'"', text @ .., b'"'] if option.ty == ConfigType::Text => {
            // Longer texts are cut, as libbpf cuts them: what an object declares is the most that it reads.
            let size = crate::bytes::index(option.size);
            let mut bytes = text.get(..size.saturating_sub(1)).unwrap_or(text).to_vec();
            bytes.resize(size, 0);
            Some(bytes)
        }
        _ => {
            let number = match value.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => value.parse::<i64>().map(i64::cast_unsigned).or_else(|_| value.parse()),
            };
            integer(option, number.ok()?)
        }
    }
}

/// A number in the bytes of an option, if it fits.
fn integer(option: &ConfigOption<'_>, number: u64) -> Option<Vec<u8>> {
    let bits = option.size.checked_mul(8)?;
    let fits = match option.ty {
        ConfigType::Bool => number <= 1,
        ConfigType::Int { .. } if bits >= 64 => true,
        ConfigType::Int { signed: false } => number >> bits == 0,
        ConfigType::Int { signed: true } => {
            let limit = 1_i64 << (bits - 1);
            (-limit..limit).contains(&number.cast_signed())
        }
        ConfigType::Char | ConfigType::Tristate | ConfigType::Text | ConfigType::Unknown => false,
    };
    fits.then(|| number.to_le_bytes().into_iter().take(crate::bytes::index(option.size)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &str = "# Automatically generated file\nCONFIG_HZ=250\nCONFIG_NET=y\nCONFIG_XDP_SOCKETS=m\n\
                           CONFIG_DEFAULT_HOSTNAME=\"(none)\"\nCONFIG_PHYS=0xffffffff81000000\nCONFIG_LOW=-3\n\
                           # CONFIG_OFF is not set\nCONFIG_HZ_250=y\n";

    fn value(name: &str, size: u32, ty: ConfigType, weak: bool) -> Result<Vec<u8>, String> {
        let kernel =
            KernelConfig { version: 0x06_01_05, bpf_cookie: true, options: Some(OPTIONS), ..KernelConfig::default() };
        let option = ConfigOption { name, offset: 0, size, ty };
        kernel.value(&option, weak).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_read_by_the_type_that_the_object_declares() {
        let (int, signed) = (ConfigType::Int { signed: false }, ConfigType::Int { signed: true });
        for (name, size, ty, bytes) in [
            ("CONFIG_HZ", 4, int, vec![250, 0, 0, 0]),
            ("CONFIG_HZ", 2, signed, vec![250, 0]),
            ("CONFIG_LOW", 4, signed, vec![253, 255, 255, 255]),
            ("CONFIG_PHYS", 8, int, vec![0, 0, 0, 0x81, 255, 255, 255, 255]),
            ("CONFIG_NET", 1, ConfigType::Bool, vec![1]),
            ("CONFIG_NET", 1, ConfigType::Char, vec![b'y']),
            ("CONFIG_XDP_SOCKETS", 4, ConfigType::Tristate, vec![2, 0, 0, 0]),
            ("CONFIG_DEFAULT_HOSTNAME", 8, ConfigType::Text, b"(none)\0\0".to_vec()),
            ("CONFIG_DEFAULT_HOSTNAME", 4, ConfigType::Text, b"(no\0".to_vec()),
            ("LINUX_KERNEL_VERSION", 4, int, vec![5, 1, 6, 0]),
            ("LINUX_HAS_BPF_COOKIE", 1, ConfigType::Bool, vec![1]),
            ("LINUX_HAS_SYSCALL_WRAPPER", 1, ConfigType::Bool, vec![0]),
        ] {
            assert_eq!(value(name, size, ty, false), Ok(bytes), "{name}");
        }
    }

    #[test]
    fn weak_options_are_zero_and_others_are_refused_where_the_kernel_lacks_them() {
        let int = ConfigType::Int { signed: false };
        assert_eq!(value("CONFIG_OFF", 4, int, true), Ok(vec![0; 4]));
        assert_eq!(value("LINUX_HAS_SOMETHING_NEW", 1, ConfigType::Bool, true), Ok(vec![0]));
        let said = |name: &str, size, ty| value(name, size, ty, false).unwrap_err();
        assert!(
            said("CONFIG_OFF", 4, int).starts_with("needs `CONFIG_OFF`, which this kernel's configuration does not")
        );
        assert!(said("LINUX_HAS_SOMETHING_NEW", 1, ConfigType::Bool).contains("neither an option of the kernel"));
        assert!(said("own", 4, int).contains("neither an option of the kernel"));
        let unknown = KernelConfig::default();
        let option = ConfigOption { name: "CONFIG_HZ", offset: 0, size: 4, ty: int };
        assert!(unknown.value(&option, false).unwrap_err().to_string().contains("neither in /proc/config.gz"));
        assert_eq!(unknown.value(&option, true), Ok(vec![0; 4]));
    }

    #[test]
    fn a_value_that_does_not_fit_the_declaration_is_refused() {
        let int = ConfigType::Int { signed: false };
        let said = |name: &str, size, ty| value(name, size, ty, true).unwrap_err();
        assert_eq!(
            said("CONFIG_PHYS", 4, int),
            "declares `CONFIG_PHYS` as an integer of 4 bytes, and this kernel has `0xffffffff81000000`"
        );
        assert_eq!(
            said("CONFIG_XDP_SOCKETS", 1, ConfigType::Bool),
            "declares `CONFIG_XDP_SOCKETS` as a bool, and this kernel has `m`"
        );
        assert!(said("CONFIG_LOW", 4, int).contains("integer"));
        assert!(said("CONFIG_NET", 4, int).contains("`y`"));
        assert!(said("CONFIG_HZ", 8, ConfigType::Text).contains("a text of 8 bytes"));
    }
}
