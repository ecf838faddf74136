//! K8: the BPF objects of one case, found where they are held: pins below its root, descriptors of its daemon. The kernel's whole
//! list is of no use: other cases run beside this one.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use bpfd_sys::bpf::{self, LinkId, MapId, ObjectKind, ProgId};

/// Kernel ids of programs, maps and links.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Census {
    /// Programs.
    pub programs: BTreeSet<u32>,
    /// Maps.
    pub maps: BTreeSet<u32>,
    /// Links.
    pub links: BTreeSet<u32>,
}

impl Census {
    /// Everything pinned below a directory.
    pub(crate) fn pinned(dir: &Path) -> Self {
        let mut census = Self::default();
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_none_or(|word| word != "debug") {
                    // `maps.debug` and `progs.debug` are the kernel's own (kernel/bpf/preload); no pin's name has a dot.
                    census.add(&path);
                }
            }
        }
        census
    }

    fn add(&mut self, pin: &Path) {
        let object = bpf::obj_get(pin).unwrap_or_else(|error| panic!("{}: {error}", pin.display()));
        let fd = object.as_fd();
        match bpf::object_kind(fd).unwrap() {
            ObjectKind::Program => self.programs.insert(bpf::prog_info(fd).unwrap().id.0),
            ObjectKind::Map => self.maps.insert(bpf::map_info(fd).unwrap().id.0),
            ObjectKind::Link => self.links.insert(bpf::link_info(fd).unwrap().id.0),
            ObjectKind::Btf => panic!("{}: types cannot be pinned", pin.display()),
        };
    }

    /// Everything that a process holds by descriptor (`prog_id`, `map_id`, `link_id` of /proc/PID/fdinfo).
    pub(crate) fn held_by(pid: u32) -> Self {
        let mut census = Self::default();
        let fds = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
        // A descriptor that is closed meanwhile is not held.
        for text in fds.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok()) {
            let id = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            // A link's has the number of its program beside its own.
            match (id("link_id:"), id("prog_id:"), id("map_id:")) {
                (Some(link), _, _) => census.links.extend([link]),
                (None, program, map) => {
                    census.programs.extend::<Option<u32>>(program);
                    census.maps.extend::<Option<u32>>(map);
                }
            }
        }
        census
    }

    /// What `self` has and `other` has not.
    pub fn without(&self, other: &Self) -> Self {
        Self {
            programs: &self.programs - &other.programs,
            maps: &self.maps - &other.maps,
            links: &self.links - &other.links,
        }
    }

    pub(crate) fn and(&self, other: &Self) -> Self {
        Self {
            programs: &self.programs | &other.programs,
            maps: &self.maps | &other.maps,
            links: &self.links | &other.links,
        }
    }

    /// How many of each.
    pub fn counts(&self) -> [usize; 3] {
        [self.programs.len(), self.maps.len(), self.links.len()]
    }

    /// Those that still exist. The kernel uses a number anew only after two thousand million others.
    pub(crate) fn alive(&self) -> Self {
        Self {
            programs: self.programs.iter().copied().filter(|id| bpf::prog_by_id(ProgId(*id)).is_ok()).collect(),
            maps: self.maps.iter().copied().filter(|id| bpf::map_by_id(MapId(*id)).is_ok()).collect(),
            links: self.links.iter().copied().filter(|id| bpf::link_by_id(LinkId(*id)).is_ok()).collect(),
        }
    }
}
