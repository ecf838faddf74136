//! K8: the BPF objects of one case, found where they are held: pins below its root, descriptors of its daemon. The kernel's whole
//! list is of no use: other cases run beside this one.
//!
//! What must be pinned, as `spec/dispatch.md` and `spec/state.md` say it: an app's programs, maps and record; the record of each link; the
//! state map; of an XDP chain the program that runs, and the record of it; of a link in a dispatcher its copy of the program, the record of
//! that, and what keeps it in its slot; of a link of tc its copy, the record of that, and in a tcx chain what keeps it there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use bpfd_client::proto::v1::{self as pb, hook::Hook};
use bpfd_sys::bpf::{self, Map, ObjectKind};
use ebpf::chain_record::ChainRecord;

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

/// What the daemon lists.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) apps: Vec<pb::App>,
    pub(crate) links: Vec<pb::Link>,
    pub(crate) chains: Vec<pb::Chain>,
}

/// The pins of one bpffs, by whose they are.
#[derive(Debug)]
pub(crate) struct Pins {
    /// All but the others.
    own: Census,
    /// Generations of chains: `bpfd/v1/top/GENERATION`.
    tops: BTreeMap<String, Census>,
    /// Copies of links' programs, `bpfd/v1/ext/SLOT`, and the links that each is of.
    copies: BTreeMap<String, (Census, Vec<String>)>,
    /// libxdp's directories, bpfd's dispatchers included: `xdp/dispatch-IFINDEX-PROGRAM`, by the number of the program.
    shared: BTreeMap<u32, Census>,
}

impl Pins {
    pub(crate) fn read(bpffs: &Path) -> Self {
        let within = |dir: &str| {
            let entries = fs::read_dir(bpffs.join(dir)).into_iter().flatten().map(|entry| entry.unwrap());
            entries.map(|entry| (entry.file_name().into_string().unwrap(), Census::pinned(&entry.path())))
        };
        let shared: Vec<(String, Census)> = within("xdp").collect();
        let copies = within("bpfd/v1/ext").map(|(slot, pins)| {
            let links = links_of(&bpffs.join("bpfd/v1/ext").join(&slot).join("chain"));
            (slot, (pins, links))
        });
        let copies = copies.collect();
        let tops = within("bpfd/v1/top").collect();
        // A qdisc's mark is of an interface, and may outlive it; what somebody else pinned is not ours.
        let others = ["xdp", "bpfd/v1/ext", "bpfd/v1/clsact", "theirs"].map(|dir| bpffs.join(dir));
        let own = Census::pinned_but(bpffs, &others.each_ref().map(|dir| dir.as_path()));
        let number = |name: String| name.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        let shared = shared.into_iter().map(|(name, pins)| (number(name.clone()).expect(&name), pins)).collect();
        Self { own, tops, copies, shared }
    }

    pub(crate) fn all(&self) -> Census {
        let copies = self.copies.values().map(|(copy, _)| copy);
        copies.chain(self.shared.values()).fold(self.own.clone(), |all, more| all.and(more))
    }

    /// What is not as the rows say. `seen` are all copies that a check saw: each may be in the dispatcher of its link alone.
    pub(crate) fn wrong(&self, rows: &Rows, seen: &mut BTreeSet<u32>) -> Vec<String> {
        let Rows { apps, links, chains } = rows;
        let Self { own, tops, copies, shared } = self;
        let mut wrong = Vec::new();
        seen.extend(copies.values().flat_map(|(copy, _)| &copy.programs));

        // A dispatcher of ours stays for members of peers.
        let is_kept = |chain: &pb::Chain| {
            let runs = |top: &Census| chain.kernel_program_id.is_some_and(|program| top.programs.contains(&program));
            !chain.members.is_empty() && tops.values().any(runs)
        };
        let chains: Vec<&pb::Chain> = chains.iter().filter(|chain| ours(chain).count() > 0 || is_kept(chain)).collect();
        let dispatchers = || chains.iter().filter(|chain| chain.mode() == pb::ChainMode::Libxdp);
        let is_shared = |hook: &Hook| matches!(hook, Hook::Xdp(_) | Hook::Tc(_));
        let unshared = links.iter().filter(|link| hook(link).is_some_and(|hook| !is_shared(hook))).count();
        let of = |mode: pb::ChainMode| {
            let of_mode = chains.iter().filter(move |chain| chain.mode() == mode);
            of_mode.map(|chain| ours(chain).count()).sum::<usize>()
        };
        let (by_tcx, by_filter) = (of(pb::ChainMode::Tcx), of(pb::ChainMode::Clsact));
        let of_xdp = chains.iter().filter(|chain| chain.hook() == pb::ChainHook::Xdp).count();
        let generations = of_xdp + by_tcx + by_filter;
        let model: [usize; 3] = [
            apps.iter().map(|app| app.programs.len()).sum::<usize>() + generations,
            // The records of apps, links and chains, and the state map.
            maps_of(apps) + apps.len() + links.len() + generations + 1,
            of(pb::ChainMode::Libxdp) + by_tcx + unshared,
        ];
        // In a namespace without a name, a dispatcher may run on for links that wait: no more of them than there are such links.
        let members =
            |chain: &pb::Chain| chain.members.iter().filter_map(|member| member.kernel_program_id).collect::<Vec<_>>();
        let running: BTreeSet<u32> = chains
            .iter()
            .flat_map(|chain| match chain.hook() {
                pb::ChainHook::Xdp => chain.kernel_program_id.into_iter().collect(),
                _ => members(chain),
            })
            .collect();
        let runs = |top: &&Census| !top.programs.is_disjoint(&running);
        let unseen: Vec<&Census> = tops.values().filter(|top| !top.links.is_empty() && !runs(top)).collect();
        let waits = |link: &&pb::Link| {
            let named = match hook(link) {
                Some(Hook::Xdp(hook)) => hook.netns.is_some(),
                Some(Hook::Tc(hook)) => hook.netns.is_some(),
                _ => false,
            };
            named && link.state() == pb::LinkState::Waiting
        };
        if unseen.len() > links.iter().filter(waits).count() {
            wrong.push(format!("{unseen:?} are pinned for no link that waits"));
        }
        let unseen = unseen.into_iter().fold(Census::default(), |all, more| all.and(more));
        let seen_here = own.without(&unseen).counts();
        if seen_here != model {
            wrong.push(format!("programs, maps, links: {seen_here:?} are pinned, {model:?} by the rows"));
        }

        // A link that waits may have its copy already: it had an interface before.
        let needed: BTreeSet<&str> =
            dispatchers().flat_map(|chain| ours(chain)).map(|link| link.uid.as_str()).collect();
        let fused = chains.iter().filter(|chain| chain.mode() == pb::ChainMode::Fused).flat_map(|chain| ours(chain));
        let fused: BTreeSet<&str> = fused.map(|link| link.uid.as_str()).collect();
        let allowed =
            links.iter().filter(|link| matches!(hook(link), Some(Hook::Xdp(_)))).map(|link| link.uid.as_str());
        let allowed: BTreeSet<&str> = allowed.filter(|link| !fused.contains(link)).collect();
        let named: Vec<&str> = copies.values().flat_map(|(_, links)| links).map(String::as_str).collect();
        let twice = named.len();
        let named: BTreeSet<&str> = named.into_iter().collect();
        if twice != named.len() || !named.is_superset(&needed) || !named.is_subset(&allowed) {
            wrong.push(format!("copies of {named:?} are pinned, {needed:?} run, {allowed:?} may have one"));
        }
        let odd = copies.iter().filter(|(_, (copy, _))| copy.counts() != [1, 1, 0]);
        wrong.extend(odd.map(|(slot, copy)| format!("a copy is a program and its record, for {slot} it is {copy:?}")));

        // What peers read is what runs, and nothing of ours is anywhere else.
        let mut live = BTreeSet::new();
        for chain in dispatchers() {
            let Some(program) = chain.kernel_program_id else { continue };
            live.insert(program);
            let members: BTreeSet<u32> = chain.members.iter().filter_map(|member| member.kernel_program_id).collect();
            let pins = shared.get(&program).cloned().unwrap_or_default();
            if (&pins.programs, pins.counts()) != (&members, [members.len(), 0, members.len()]) {
                wrong.push(format!("dispatcher {program} has {members:?}, and for peers {pins:?} are pinned"));
            }
        }
        let elsewhere = shared.iter().filter(|(number, _)| !live.contains(number) && !unseen.programs.contains(number));
        let elsewhere = elsewhere.filter(|(_, pins)| pins.programs.is_empty() || !pins.programs.is_disjoint(seen));
        wrong
            .extend(elsewhere.map(|(number, pins)| format!("for a dispatcher {number} of before {pins:?} are pinned")));
        wrong
    }
}

/// The links in the record of a copy.
fn links_of(record: &Path) -> Vec<String> {
    let map = Map::from_fd(bpf::obj_get(record).unwrap()).unwrap();
    let record = ChainRecord::decode(&map.lookup(&[0; 4]).unwrap().unwrap()).unwrap();
    let hex = |link: [u8; 16]| link.iter().map(|byte| format!("{byte:02x}")).collect();
    record.entries.iter().map(|entry| hex(entry.link)).collect()
}

fn ours(chain: &pb::Chain) -> impl Iterator<Item = &pb::Link> {
    chain.members.iter().filter_map(|member| match &member.program {
        Some(pb::chain_member::Program::Link(link)) => Some(link),
        Some(pb::chain_member::Program::Foreign(_)) | None => None,
    })
}

fn hook(link: &pb::Link) -> Option<&Hook> {
    link.hook.as_ref()?.hook.as_ref()
}

impl Census {
    /// Everything pinned below a directory.
    pub(crate) fn pinned(dir: &Path) -> Self {
        Self::pinned_but(dir, &[])
    }

    fn pinned_but(dir: &Path, not: &[&Path]) -> Self {
        let mut census = Self::default();
        let mut dirs = vec![dir.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
                let path = entry.unwrap().path();
                if not.contains(&path.as_path()) {
                    continue;
                }
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

    /// Those that still exist. The kernel uses a number anew only after two thousand million others. They are looked for in the kernel's
    /// list and not opened: a program array that is opened while the kernel clears it is never freed (`prog_array_map_clear` of
    /// kernel/bpf/arraymap.c takes a reference for work that is queued already).
    pub(crate) fn alive(&self) -> Self {
        let programs: BTreeSet<u32> = bpf::prog_ids().map(|id| id.unwrap().0).collect();
        let maps: BTreeSet<u32> = bpf::map_ids().map(|id| id.unwrap().0).collect();
        let links: BTreeSet<u32> = bpf::link_ids().map(|id| id.unwrap().0).collect();
        Self { programs: &self.programs & &programs, maps: &self.maps & &maps, links: &self.links & &links }
    }
}

/// The maps of apps; one that several share is one. Whoever takes a map from another app has the same one, by the kernel's number.
fn maps_of(apps: &[pb::App]) -> usize {
    let maps = || apps.iter().flat_map(|app| &app.maps);
    let shared: BTreeSet<Option<u32>> =
        maps().filter(|map| map.shared_from.is_some()).map(|map| map.kernel_id).collect();
    maps().filter(|map| map.shared_from.is_none() && !shared.contains(&map.kernel_id)).count() + shared.len()
}
