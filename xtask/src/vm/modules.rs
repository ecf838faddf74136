//! Which modules a guest loads, and in which order: from what each says it depends on.
//!
//! Works on files and names alone, so that neither host nor guest needs depmod or modprobe.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

/// What a guest needs before its root is there, then what tests use: the kernel cannot fetch modules itself, as
/// the guest has no modprobe. The words after a name are its parameters: these two would make devices unasked.
const WANTED: [&str; 20] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "fuse",
    "virtiofs",
    "overlay",
    "veth",
    "dummy numdummies=0",
    "ifb numifbs=0",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "tun",
    "bridge",
    "sch_prio",
    "cls_matchall",
];

/// A module as it goes into the initrd.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) parameters: &'static str,
    pub(super) bytes: Vec<u8>,
}

/// The modules of a guest in load order; `read` returns a module's bytes, or nothing if there is no such file.
pub(super) fn ordered(
    built_in: &BTreeSet<String>,
    mut read: impl FnMut(&str) -> Result<Option<Vec<u8>>>,
) -> Result<Vec<Module>> {
    let mut order = Order { built_in, read: &mut read, done: Vec::new(), started: BTreeSet::new() };
    let parameters: BTreeMap<&str, &'static str> = WANTED.iter().filter_map(|w| w.split_once(' ')).collect();
    for wanted in WANTED {
        order.add(wanted.split(' ').next().unwrap_or(wanted))?;
    }
    let module = |(name, bytes): (String, Vec<u8>)| {
        let parameters = parameters.get(name.as_str()).copied().unwrap_or_default();
        Module { name, parameters, bytes }
    };
    Ok(order.done.into_iter().map(module).collect())
}

struct Order<'a> {
    built_in: &'a BTreeSet<String>,
    read: &'a mut dyn FnMut(&str) -> Result<Option<Vec<u8>>>,
    done: Vec<(String, Vec<u8>)>,
    started: BTreeSet<String>,
}

impl Order<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = canonical(name);
        // Started but not done would be a cycle, which the kernel's own build refuses.
        if self.built_in.contains(&name) || !self.started.insert(name.clone()) {
            return Ok(());
        }
        let Some(bytes) = (self.read)(&name)? else {
            bail!("the kernel has no module `{name}`, built in or not");
        };
        for dependency in depends(&bytes) {
            self.add(&dependency).with_context(|| format!("`{name}` needs `{dependency}`"))?;
        }
        self.done.push((name, bytes));
        Ok(())
    }
}

/// Files say `-` or `_`, modules `_`.
pub(super) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// What a module says in its `.modinfo` section: `depends=a,b`, between NULs.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let entry = module.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(KEY));
    let list = String::from_utf8_lossy(entry.unwrap_or_default()).into_owned();
    list.split(',').filter(|d| !d.is_empty()).map(str::to_owned).collect()
}

/// The names in `modules.builtin`, a line per module: `kernel/fs/fuse/virtiofs.ko`.
pub(super) fn built_in(list: &str) -> BTreeSet<String> {
    list.lines().filter_map(|l| l.rsplit('/').next()?.strip_suffix(".ko")).map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        assert_eq!(depends(b"\x7fELF\0license=GPL\0depends=stp,llc\0name=bridge\0"), ["stp", "llc"]);
        assert_eq!(depends(b"\0depends=\0"), Vec::<String>::new());
        assert_eq!(depends(b"\0xdepends=a\0"), Vec::<String>::new());
    }

    #[test]
    fn a_module_comes_after_what_it_needs_and_built_in_ones_not_at_all() {
        let built_in = built_in("kernel/fs/fuse/fuse.ko\nkernel/drivers/virtio/virtio-ring.ko\n");
        let read = |name: &str| {
            let depends = match name {
                "bridge" => "stp,llc",
                "stp" => "llc",
                "virtiofs" => "fuse",
                _ => "",
            };
            Ok(Some(format!("\0depends={depends}\0").into_bytes()))
        };
        let modules = ordered(&built_in, read).unwrap();
        let names: Vec<&str> = modules.iter().map(|m| m.name.as_str()).collect();
        let at = |name: &str| names.iter().position(|n| *n == name);
        assert!(at("llc").unwrap() < at("stp").unwrap() && at("stp").unwrap() < at("bridge").unwrap());
        assert_eq!((at("fuse"), at("virtio_ring")), (None, None));
        assert_eq!(names.iter().filter(|n| **n == "llc").count(), 1);
        assert_eq!(modules.iter().find(|m| m.name == "dummy").unwrap().parameters, "numdummies=0");
    }

    #[test]
    fn a_kernel_without_a_module_we_need_is_refused() {
        let error = ordered(&BTreeSet::new(), |name| Ok((name != "veth").then(Vec::new))).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module `veth`, built in or not");
    }
}
