//! A host of a test's own: a bpffs, a network namespace with a veth pair, objects compiled from C. Everything is gone when it is
//! dropped, after a panic too. Kernels opened on it must be dropped before it: they hold the bpffs.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bpfd::kernel::{HostKernel, OpenError, Paths};
use bpfd::worker::{Workers, parse};
use bpfd_core::chain::room::Room;
use bpfd_core::config::Chain;
use bpfd_core::hook::{ChainId, ChainName, InterfaceId, NamedChain, Point, ProceedOn, XdpMode};
use bpfd_core::ident::{AppUid, GenerationUid, KernelId, LinkUid};
use bpfd_core::kernel::{
    ChainContent, Kernel, LiveGeneration, LoadAs, Member, Observed, ObservedChain, Recipe, Scope, Spot, Step,
    StepError, Targets,
};
use bpfd_core::mode::{ModeError, Setting};
use bpfd_core::state::{ObjectDigest, ProgramFacts, ProgramKind, Reach};
use bpfd_sys::bpf::{Map, TestRun, prog_test_run};
use bpfd_sys::bpffs;
use bpfd_sys::netlink::Route;
use bpfd_sys::netns::Netns;
use rustix::mount::UnmountFlags;
use uuid::Uuid;

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// Examples that were compiled already: clang takes seconds on a processor that is emulated.
static COMPILED: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());

type Store = Arc<Mutex<BTreeMap<ObjectDigest, Vec<u8>>>>;

pub(crate) struct World {
    dir: tempfile::TempDir,
    objects: Store,
    next_object: AtomicU8,
    pub(crate) netns: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bpf")).unwrap();
        std::fs::create_dir(dir.path().join("netns")).unwrap();
        let netns = format!("bpfd-test-{}-{}", std::process::id(), NAMESPACES.fetch_add(1, Ordering::Relaxed));
        let world = Self { dir, objects: Store::default(), next_object: AtomicU8::new(1), netns };
        bpffs::mount(&world.bpffs()).unwrap();
        ip(&["netns", "add", &world.netns]);
        // Names of its own: others come and go while tests run side by side.
        std::fs::write(world.name(), "").unwrap();
        rustix::mount::mount_bind(Path::new("/run/netns").join(&world.netns), world.name()).unwrap();
        world.make_veth();
        world
    }

    /// `outside` sends to `inside`: 10.9.0.2 is a neighbour behind the pair that never answers.
    pub(crate) fn make_veth(&self) {
        for line in [
            "link add inside type veth peer name outside",
            // No IPv6: its own packets would be counted.
            "link set inside addrgenmode none",
            "link set outside addrgenmode none",
            "link set inside up",
            "link set outside up",
            "addr add 10.9.0.1/24 dev outside",
            "neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev outside",
        ] {
            self.ip(line);
        }
    }

    fn name(&self) -> PathBuf {
        self.dir.path().join("netns").join(&self.netns)
    }

    /// The namespace loses its names; it ends when nothing holds it.
    pub(crate) fn delete_netns(&self) {
        rustix::mount::unmount(self.name(), UnmountFlags::DETACH).unwrap();
        std::fs::remove_file(self.name()).unwrap();
        ip(&["netns", "del", &self.netns]);
    }

    pub(crate) fn ip(&self, line: &str) {
        let words: Vec<&str> = ["-n", &self.netns].into_iter().chain(line.split(' ')).collect();
        ip(&words);
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.dir.path().join("bpf")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.bpffs().join("bpfd/v1")
    }

    /// A kernel whose chains are one program each, whatever it allows.
    pub(crate) fn kernel(&self) -> HostKernel {
        self.open(Setting::Fused).unwrap()
    }

    /// A kernel with chains in libxdp's form; `None`, told, where it does not allow that.
    pub(crate) fn sharing(&self) -> Option<HostKernel> {
        match self.open(Setting::Libxdp) {
            Err(OpenError::Mode(ModeError::Impossible { cause, .. })) => {
                #[expect(clippy::print_stdout, reason = "the runner counts these words as a skip")]
                {
                    println!("skipped: no chains in libxdp's form: {cause}");
                }
                None
            }
            opened => Some(opened.unwrap()),
        }
    }

    pub(crate) fn open(&self, setting: Setting) -> Result<HostKernel, OpenError> {
        let paths = Paths { bpffs: self.bpffs(), netns: self.dir.path().join("netns"), ..Paths::default() };
        let objects = self.objects.clone();
        let bytes = move |digest: &ObjectDigest| {
            objects.lock().unwrap().get(digest).cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
        };
        HostKernel::open_in(&Chain { mode: setting, ..Chain::default() }, paths, workers(), Arc::new(bytes))
    }

    pub(crate) fn chain(&self, interface: &str) -> NamedChain {
        let netns = Netns::named(&self.netns).unwrap();
        let netns_cookie = netns.cookie().unwrap().unwrap();
        let index = netns.within(|| Route::open().unwrap().link_named(interface).unwrap().unwrap().index).unwrap();
        let id = ChainId { interface: InterfaceId { netns_cookie, index }, point: Point::Xdp };
        let (netns, interface) = (self.netns.parse().unwrap(), interface.parse().unwrap());
        NamedChain { id, name: ChainName { netns, interface, point: Point::Xdp } }
    }

    pub(crate) fn inside(&self) -> NamedChain {
        self.chain("inside")
    }

    /// Keeps bytes and says how to make an app of them.
    pub(crate) fn recipe(&self, elf: Vec<u8>, functions: &[(&str, ProgramKind)]) -> Recipe {
        let object = ObjectDigest::from([self.next_object.fetch_add(1, Ordering::Relaxed); 32]);
        self.objects.lock().unwrap().insert(object, elf);
        let functions = functions.iter().map(|(name, kind)| ((*name).to_owned(), LoadAs::Any(*kind))).collect();
        Recipe { object, globals: BTreeMap::new(), functions, reach: Reach::Kernel, shared: BTreeMap::new() }
    }

    pub(crate) fn bytes(&self, recipe: &Recipe) -> Vec<u8> {
        self.objects.lock().unwrap()[&recipe.object].clone()
    }

    /// xdp-counter that adds `step` a packet.
    pub(crate) fn counter(&self, step: u32) -> Recipe {
        let elf = self.example("xdp-counter");
        let recipe = self.recipe(elf, &[("count", ProgramKind::Xdp)]);
        Recipe { globals: BTreeMap::from([("step".to_owned(), step.to_ne_bytes().to_vec())]), ..recipe }
    }

    pub(crate) fn example(&self, name: &str) -> Vec<u8> {
        if let Some(object) = COMPILED.lock().unwrap().get(name) {
            return object.clone();
        }
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let object = self.compile(&examples.join(name).join(format!("{name}.bpf.c")));
        COMPILED.lock().unwrap().insert(name.to_owned(), object.clone());
        object
    }

    /// An object of C source, behind the usual includes.
    pub(crate) fn source(&self, c: &str) -> Vec<u8> {
        let file = self.dir.path().join("source.bpf.c");
        std::fs::write(&file, format!("#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n{c}\n")).unwrap();
        self.compile(&file)
    }

    fn compile(&self, source: &Path) -> Vec<u8> {
        let object = self.dir.path().join("object.o");
        let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        let mut clang = Command::new("clang");
        clang.args(["-g", "-O2", "-target", "bpf", &include, "-c"]).arg(source).arg("-o").arg(&object);
        let done = clang.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        std::fs::read(object).unwrap()
    }

    /// Sends that many packets into `inside`.
    pub(crate) fn send(&self, packets: usize) {
        Netns::named(&self.netns)
            .unwrap()
            .within(|| {
                let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
                for _ in 0..packets {
                    socket.send_to(b"packet", "10.9.0.2:9").unwrap();
                }
            })
            .unwrap();
    }

    /// The sum over all CPUs of the one slot of an app's map.
    pub(crate) fn count(&self, app: AppUid, map: &str) -> u64 {
        let pin = self.pins().join(app.to_string()).join(format!("map_{map}"));
        let map = Map::from_fd(bpfd_sys::bpf::obj_get(&pin).unwrap()).unwrap();
        let values = map.lookup(&[0; 4]).unwrap().unwrap();
        values.chunks(8).map(|value| u64::from_ne_bytes(value.try_into().unwrap())).sum()
    }

    /// The counters of these apps are as wanted, soon: packets are handled after they were sent, now and then by a thread of the
    /// kernel's that comes later than this one.
    #[track_caller]
    pub(crate) fn counted(&self, apps: &[Loaded], wanted: &[u64]) {
        let counts = || apps.iter().map(|(app, _)| self.count(*app, "packets")).collect::<Vec<u64>>();
        let limit = Instant::now() + LIMIT;
        while counts() != wanted && Instant::now() < limit {
            // Asked without a pause, an emulated processor has no time for it.
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(counts(), wanted);
    }

    pub(crate) fn program_of(&self, generation: GenerationUid) -> OwnedFd {
        bpfd_sys::bpf::obj_get(&self.pins().join("top").join(generation.to_string()).join("prog")).unwrap()
    }

    /// The verdict on a packet of zeros.
    pub(crate) fn verdict(&self, generation: GenerationUid) -> u32 {
        let run = TestRun { data_in: &[0; 64], context: &[], repeat: 1 };
        prog_test_run(self.program_of(generation).as_fd(), &run).unwrap().retval
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test's own words count; what can be removed is.
            let _ = rustix::mount::unmount(self.bpffs(), UnmountFlags::DETACH);
            let _ = rustix::mount::unmount(self.name(), UnmountFlags::DETACH);
            let _ = Command::new("ip").args(["netns", "del", &self.netns]).output();
            return;
        }
        eventually(|| bpffs::unmount(&self.bpffs()).is_ok());
        if self.name().exists() {
            self.delete_netns();
        }
    }
}

/// A guest's emulated processor is slow.
const LIMIT: Duration = Duration::from_secs(20);

/// Waits for what happens a moment later: the kernel lets go of a link after its last holder did (`bpf_link_put` leaves it to a
/// worker), and a child of another test, just forked, still holds copies of our descriptors.
pub(crate) fn eventually(mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < limit, "it did not happen");
        std::thread::yield_now();
    }
}

pub(crate) fn workers() -> Workers {
    Workers::of(PathBuf::from(env!("CARGO_BIN_EXE_bpfd")))
}

fn ip(words: &[&str]) {
    let done = Command::new("ip").args(words).output().unwrap();
    assert!(done.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

pub(crate) fn app() -> AppUid {
    AppUid(Uuid::new_v4())
}

/// An app that is loaded: its uid and what makes it again.
pub(crate) type Loaded = (AppUid, Recipe);

/// What the engine does with the steps, in short.
pub(crate) trait Steps {
    fn load(&mut self, world: &World, recipe: Recipe) -> Loaded;
    fn try_load(&mut self, world: &World, app: AppUid, recipe: &Recipe) -> Result<Vec<ProgramFacts>, StepError>;
    fn build(&mut self, chain: &NamedChain, members: &[Member], apps: &[Loaded]) -> Result<LiveGeneration, StepError>;
    fn swap(
        &mut self,
        chain: &NamedChain,
        from: Option<LiveGeneration>,
        to: Option<GenerationUid>,
        mode: XdpMode,
    ) -> Result<(), StepError>;
    fn look(&mut self, chains: &[NamedChain]) -> Observed;
    fn see(&mut self, chain: &NamedChain) -> ObservedChain;
}

impl Steps for HostKernel {
    /// Through the parse worker and the loader, as a request does.
    fn load(&mut self, world: &World, recipe: Recipe) -> Loaded {
        let app = app();
        self.try_load(world, app, &recipe).unwrap();
        self.step(&Step::PinApp(app)).unwrap();
        (app, recipe)
    }

    fn try_load(&mut self, world: &World, app: AppUid, recipe: &Recipe) -> Result<Vec<ProgramFacts>, StepError> {
        let elf = world.bytes(recipe);
        let rehearsed = parse::rehearse(&workers(), &self.loader(), &elf, recipe);
        rehearsed.map_err(|error| StepError::Object { why: error.to_string() })?;
        let staged = self.loader().prepare(&elf, recipe, BTreeMap::new(), &|| true)?;
        let programs = staged.programs();
        self.stage(app, staged);
        Ok(programs)
    }

    fn build(&mut self, chain: &NamedChain, members: &[Member], apps: &[Loaded]) -> Result<LiveGeneration, StepError> {
        let generation = GenerationUid(Uuid::new_v4());
        let content =
            ChainContent::Fused { members: members.to_vec(), recipes: apps.iter().cloned().collect(), room: Room::All };
        let program = self.step(&Step::BuildGeneration { generation, chain: chain.clone(), content })?.unwrap();
        self.step(&Step::PinGeneration(generation))?;
        Ok(LiveGeneration { program, generation })
    }

    fn swap(
        &mut self,
        chain: &NamedChain,
        from: Option<LiveGeneration>,
        to: Option<GenerationUid>,
        mode: XdpMode,
    ) -> Result<(), StepError> {
        self.step(&Step::Swap { chain: chain.clone(), from, to, mode, at: Spot::Whole })
            .map(|bound: Option<KernelId>| assert_eq!(bound, None))
    }

    fn look(&mut self, chains: &[NamedChain]) -> Observed {
        let names = chains.iter().map(|chain| chain.name.clone()).collect();
        let targets = Targets { names, chains: chains.iter().map(|chain| chain.id).collect() };
        self.observe(&Scope::Everything(targets)).unwrap()
    }

    fn see(&mut self, chain: &NamedChain) -> ObservedChain {
        self.look(std::slice::from_ref(chain)).chains.remove(&chain.id).unwrap()
    }
}

/// The members of these apps' `function`, in this order, priorities 10, 11, ….
pub(crate) fn members(function: &str, apps: &[Loaded]) -> Vec<Member> {
    (10..).zip(apps).map(|(priority, (app, _))| member(*app, function, priority)).collect()
}

pub(crate) fn member(app: AppUid, function: &str, priority: u32) -> Member {
    let priority = priority.try_into().unwrap();
    Member {
        link: LinkUid(Uuid::new_v4()),
        app,
        function: function.to_owned(),
        priority,
        effective: priority,
        proceed_on: ProceedOn::PASS,
    }
}
