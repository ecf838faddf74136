//! The parts of `cargo xtask test`, their share of minutes, and the steps each derives from the tree.
//!
//! A part whose subject does not exist has no steps. A step that cannot run on this host is a skip with its
//! reason: it must never just be absent.
//!
//! Long because what runs where is one set of tables, read together with the steps that are made of them.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;

use super::binaries::{Binaries, Binary, FAIL_POINTS, Lane};
use super::count::Count;
use super::step::{Spec, Step};
use crate::{examples, tools};

/// In the order in which they run: the cheap ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Part {
    /// Formatting, lints, rules of the tree, generated code, licences
    Static,
    /// Tests that need nothing
    Unit,
    /// Hostile objects and mutations
    Corpora,
    /// Tests on this host's kernel, as root
    Host,
    /// Objects of Debian's packages, loaded by libbpf and by bpfd
    Objects,
    /// The same and more on other kernels
    Vm,
    /// Clients in other languages, documentation
    Clients,
}

/// The kernels of the guests. Each is one lane: two guests run side by side.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// The packages whose tests run in guests, in this order: all but the programs of `NOT_IN_GUESTS`.
const GUESTS: [&str; 3] = ["bpfd-sys", "bpfd", "bpfd-tests"];

/// Needs the tree's own build, or hosts' tools that write where a guest cannot (Go's compiler, buildah); or is about what no
/// kernel changes, and starts so many processes that an emulated processor takes minutes for it.
const NOT_IN_GUESTS: [&str; 19] = [
    "demo",
    "host_agents",
    "host_audit",
    "host_bad_images",
    "host_bad_objects",
    "host_bad_requests",
    "host_book",
    "host_clients",
    "host_crash",
    "host_dry_run",
    "host_examples",
    "host_failures",
    "host_images",
    "host_packages",
    "host_peers",
    "host_registries",
    "host_scale",
    "host_shows",
    "host_verbs",
];

/// Programs of which only the cases of these files run in guests: those that are about the kernel.
const PARTLY_IN_GUESTS: [(&str, &[&str]); 2] = [
    ("host_attacks", &["priorities::", "program_arrays::", "room::"]),
    ("host_policy", &["a_unit_is", "who_one_is", "whose_program_is"]),
];

/// Tests of what is in the packages.
const OF_PACKAGES: &str = "host_packages";

/// Tests of what the packages do, on a Debian that systemd has booted, and the kernel of that guest: a second one would show nothing more.
const BOOTED: (&str, &str) = ("guest_package", "6.12");

/// Seconds a test program may take in a guest, whose processor is emulated: ten times what the slowest takes.
const GUEST_TIMEOUT: &str = "900";

impl Part {
    pub(super) const ALL: [Self; 7] =
        [Self::Static, Self::Unit, Self::Corpora, Self::Host, Self::Objects, Self::Vm, Self::Clients];

    /// Minutes of the 45 that a cold run may take.
    pub(super) fn share(self) -> u32 {
        match self {
            Self::Static | Self::Unit | Self::Corpora => 4,
            Self::Objects | Self::Host | Self::Clients => 6,
            Self::Vm => 12,
        }
    }

    pub(super) fn runs_binaries(self) -> bool {
        match self {
            Self::Unit | Self::Corpora | Self::Host | Self::Objects | Self::Vm => true,
            Self::Static | Self::Clients => false,
        }
    }

    /// The steps, in lanes that run side by side.
    pub(super) fn lanes(self, root: &Path, binaries: &Binaries) -> Vec<Vec<Step>> {
        let of = |lane: Lane| binaries.all.iter().filter(|b| b.lane == lane).collect::<Vec<_>>();
        match self {
            Self::Static => vec![statics(root)],
            Self::Unit => {
                let (beside_peers, alone): (Vec<_>, Vec<_>) =
                    of(Lane::Unit).into_iter().partition(|b| BESIDE_PEERS.contains(&b.name.as_str()));
                let mut steps = on_host(root, &alone, || Ok(()));
                steps.extend(on_host(root, &beside_peers, || installed(&PEERS)));
                vec![steps]
            }
            Self::Corpora => vec![on_host(root, &of(Lane::Corpora), || Ok(()))],
            Self::Host => {
                let (of_packages, others): (Vec<_>, Vec<_>) =
                    of(Lane::Host).into_iter().partition(|b| b.name == OF_PACKAGES);
                // Cases run them.
                let mut steps = vec![Step::check("examples", xtask(&["examples", "--programs"]))];
                steps.extend(on_host(root, &others, || tools_ready(&HOST_TOOLS)));
                steps.extend(on_host(root, &of_packages, || tools_ready(&HOST_TOOLS).and_then(|()| packages(root))));
                steps.extend(demo(root, binaries));
                vec![steps]
            }
            Self::Objects => objects(root, &of(Lane::Objects)),
            Self::Vm => in_guests(root, binaries),
            Self::Clients => vec![clients(root)],
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static => "static",
            Self::Unit => "unit",
            Self::Corpora => "corpora",
            Self::Host => "host",
            Self::Objects => "objects",
            Self::Vm => "vm",
            Self::Clients => "clients",
        })
    }
}

const FIXTURE_TOOLS: [tools::Tool; 2] = [tools::CLANG, tools::LIBBPF];
/// Unit tests that hold what we make against what others make of it, and with what.
const BESIDE_PEERS: [&str; 2] = ["peers", "signatures"];
const PEERS: [tools::Tool; 3] = [tools::REGISTRY, tools::SKOPEO, tools::OPENSSL];
const HOST_TOOLS: [tools::Tool; 9] = [
    tools::IPROUTE,
    tools::PING,
    tools::REGISTRY,
    tools::SKOPEO,
    tools::BUILDAH,
    tools::XDP_TOOLS,
    tools::BPFTOOL,
    tools::STRACE,
    tools::SUDO,
];
const GUEST_TOOLS: [tools::Tool; 11] = [
    tools::QEMU,
    tools::VIRTIOFSD,
    tools::BUSYBOX,
    tools::XZ,
    tools::E2FSPROGS,
    tools::IPROUTE,
    tools::PING,
    tools::XDP_TOOLS,
    tools::REGISTRY,
    tools::SUDO,
    tools::BPFTOOL,
];

fn cargo(args: &[&str]) -> Spec {
    Spec::new(env!("CARGO"), args)
}

/// This tool itself, with another verb.
fn xtask(args: &[&str]) -> Spec {
    // The very program that runs now: the build may have put another in its place.
    Spec::new("/proc/self/exe", args)
}

fn statics(root: &Path) -> Vec<Step> {
    let mut steps =
        vec![Step::check("fmt", cargo(&["fmt", "--all", "--check"])), Step::check("tidy", xtask(&["tidy"]))];
    if root.join("xtask/src/codegen.rs").exists() {
        steps.push(Step::check("codegen", xtask(&["codegen", "--check"])));
    }
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--keep-going", "--", "-D", "warnings"];
    steps.push(Step::check("clippy", cargo(&clippy)));
    steps.extend(deny(root));
    steps
}

fn deny(root: &Path) -> Vec<Step> {
    let program = match tools::cargo_deny() {
        Ok(program) => program,
        Err(error) => {
            let reason = format!("{error:#}");
            return vec![Step::skip("deny", &reason), Step::skip("deny advisories", &reason)];
        }
    };
    let deny = |what: &[&str]| Spec::new(&program, &[&["--log-level", "error", "check"], what].concat());
    let mut steps = vec![Step::check("deny", deny(&["bans", "licenses", "sources"]))];
    let fetched = std::process::Command::new(&program).args(["fetch", "db"]).current_dir(root).output();
    steps.push(match fetched {
        Ok(out) if out.status.success() => Step::check("deny advisories", deny(&["advisories"])),
        Ok(_) | Err(_) => Step::skip("deny advisories", "the advisory database cannot be fetched from here"),
    });
    steps
}

/// Steps for test programs on this host, or skips if what they need beside the examples is not ready.
fn on_host(root: &Path, binaries: &[&Binary], ready: impl FnOnce() -> Result<(), String>) -> Vec<Step> {
    if binaries.is_empty() {
        return Vec::new();
    }
    if let Err(reason) = fixtures(root).and_then(|()| ready()) {
        return binaries.iter().map(|b| skip(b, "", &reason)).collect();
    }
    binaries.iter().map(|b| run(b, Spec { dir: Some(b.dir.clone()), ..Spec::new(&b.file, &LIBTEST) })).collect()
}

/// Packages of Debian whose programs are BPF objects, or have some in them.
const OBJECTS: [&str; 4] = ["ir-keytable", "libbpf-tools", "systemd", "xdp-tools"];

/// Steps for test programs that read what is in those packages, which are fetched and unpacked, never installed: on this host, and in
/// each guest, which sees this host's files.
fn objects(root: &Path, binaries: &[&Binary]) -> Vec<Vec<Step>> {
    let fetched = tools_ready(&HOST_TOOLS).and_then(|()| tools::unpacked(&OBJECTS).map_err(|e| format!("{e:#}")));
    let (ready, dir) = match fetched {
        Ok(dir) => (Ok(()), dir.display().to_string()),
        Err(reason) => (Err(reason), String::new()),
    };
    let guests = ready.clone().and_then(|()| guests_ready(root, &KERNELS));
    let mut lanes: Vec<Vec<Step>> = KERNELS
        .iter()
        .map(|kernel| {
            let guest = Guest { kernel, icount: false, ready: &guests };
            binaries.iter().map(|binary| guest.step(binary, &[])).collect()
        })
        .collect();
    if let Some(first) = lanes.first_mut() {
        first.splice(0..0, on_host(root, binaries, || ready));
    }
    for step in lanes.iter_mut().flatten() {
        if let Step::Run { command, .. } = step {
            command.env.push(("BPFD_OBJECTS".to_owned(), dir.clone()));
        }
    }
    lanes
}

/// Passing tests may say that they were skipped: `count` reads it from what they printed.
const LIBTEST: [&str; 1] = ["--show-output"];

fn run(binary: &Binary, mut command: Spec) -> Step {
    let dir = binary.dir.display().to_string();
    // What cargo would set, and what keeps snapshot tests from writing into the tree.
    for (key, value) in [("CARGO_MANIFEST_DIR", dir.as_str()), ("INSTA_UPDATE", "no"), ("RUST_BACKTRACE", "1")] {
        command.env.push((key.to_owned(), value.to_owned()));
    }
    Step::Run { label: binary.label(), command, count: Count::Libtest }
}

fn skip(binary: &Binary, suffix: &str, reason: &str) -> Step {
    let cases = binary.cases().into_iter().map(|c| format!("{c}{suffix}")).collect();
    Step::Skip { label: format!("{}{suffix}", binary.label()), cases, reason: reason.to_owned() }
}

/// The objects that tests load.
fn fixtures(root: &Path) -> Result<(), String> {
    let built = tools::ensure(&FIXTURE_TOOLS).and_then(|()| examples::build(root, &root.join("target/bpf")));
    built.map(|_| ()).map_err(|e| format!("{e:#}"))
}

/// Tools for tests that need root.
fn tools_ready(needed: &[tools::Tool]) -> Result<(), String> {
    if tools::is_root() { installed(needed) } else { Err("needs root".to_owned()) }
}

fn installed(needed: &[tools::Tool]) -> Result<(), String> {
    tools::ensure(needed).map_err(|e| format!("{e:#}"))
}

fn in_guests(root: &Path, binaries: &Binaries) -> Vec<Vec<Step>> {
    let ready = guests_ready(root, &KERNELS);
    KERNELS.iter().map(|kernel| Guest { kernel, icount: false, ready: &ready }.steps(binaries, None)).collect()
}

/// The steps of one guest: all of them, or those of a test program or of cases whose names have `case` in them.
pub(super) fn in_guest(root: &Path, binaries: &Binaries, kernel: &str, icount: bool, case: Option<&str>) -> Vec<Step> {
    let ready = guests_ready(root, &[kernel]);
    Guest { kernel, icount, ready: &ready }.steps(binaries, case)
}

fn guests_ready(root: &Path, kernels: &[&str]) -> Result<(), String> {
    fixtures(root).and_then(|()| tools_ready(&GUEST_TOOLS))?;
    if let Err(error) = examples::programs(root) {
        println!("{error:#}");
    }
    kernels.iter().try_for_each(|k| crate::vm::fetch_kernel(k)).map_err(|e| format!("{e:#}"))
}

/// The root of the tree that a test program is of: its crate is `tests/`.
fn root_of(binary: &Binary) -> &Path {
    binary.dir.parent().unwrap_or(&binary.dir)
}

/// A Debian to boot, and the packages to install there.
fn debian_ready(root: &Path) -> Result<(), String> {
    crate::vm::fetch_debian().map_err(|e| format!("{e:#}")).and_then(|()| packages(root))
}

/// The packages of the test build.
fn packages(root: &Path) -> Result<(), String> {
    crate::dist::for_tests(root).map_err(|e| format!("{e:#}"))
}

/// What test programs run in.
struct Guest<'a> {
    kernel: &'a str,
    icount: bool,
    ready: &'a Result<(), String>,
}

impl Guest<'_> {
    fn steps(&self, binaries: &Binaries, case: Option<&str>) -> Vec<Step> {
        let of = |package: &'static str| binaries.all.iter().filter(move |b| b.package == package && needs_root(b));
        let all = GUESTS.into_iter().flat_map(of);
        match case {
            None => all
                .filter(|b| !NOT_IN_GUESTS.contains(&b.name.as_str()))
                .filter(|b| b.name != BOOTED.0 || self.kernel == BOOTED.1)
                .map(|b| self.step(b, in_guests_of(b)))
                .collect(),
            Some(case) => all
                .filter_map(|b| match b.name == case {
                    true => Some(self.step(b, in_guests_of(b))),
                    false => b.cases().iter().any(|c| c.contains(case)).then(|| self.step(b, &[case])),
                })
                .collect(),
        }
    }

    /// All cases, or those whose names have one of these in them.
    fn step(&self, binary: &Binary, filters: &[&str]) -> Step {
        let suffix = format!(" on {}", self.kernel);
        let booted = binary.name == BOOTED.0;
        let ready = self.ready.clone().and_then(|()| if booted { debian_ready(root_of(binary)) } else { Ok(()) });
        if let Err(reason) = &ready {
            return skip(binary, &suffix, reason);
        }
        let file = binary.file.display().to_string();
        let mut args = vec!["vm", "--kernel", self.kernel, "--timeout", GUEST_TIMEOUT];
        args.extend(self.icount.then_some("--icount"));
        args.extend(booted.then_some("--debian"));
        args.extend(["--", &file]);
        args.extend(LIBTEST);
        args.extend(filters);
        let in_its_directory = Spec { dir: Some(binary.dir.clone()), ..xtask(&args) };
        match run(binary, in_its_directory) {
            Step::Run { label, command, count } => Step::Run { label: format!("{label}{suffix}"), command, count },
            skipped @ Step::Skip { .. } => skipped,
        }
    }
}

/// Which cases of a program run in guests; none named is all of them.
fn in_guests_of(binary: &Binary) -> &'static [&'static str] {
    PARTLY_IN_GUESTS.iter().find(|(name, _)| *name == binary.name).map_or(&[], |(_, cases)| cases)
}

fn needs_root(binary: &Binary) -> bool {
    match binary.lane {
        Lane::Host | Lane::Guest => true,
        Lane::Unit | Lane::Corpora | Lane::Objects => false,
    }
}

/// The demo is one case: it passes if every counter and every refusal is as it must be, and nothing is left behind.
fn demo(root: &Path, binaries: &Binaries) -> Option<Step> {
    // A tree without programs to run has no demo.
    binaries.all.iter().any(|b| b.package == "bpfd").then(|| {
        let ready = fixtures(root).and_then(|()| tools_ready(&crate::demo::TOOLS));
        match ready {
            // The programs of the test build: another build would put others in their place, without fail points.
            Ok(()) => Step::check("demo", xtask(&["demo", "--no-build"])),
            Err(reason) => Step::skip("demo", &reason),
        }
    })
}

/// Modules in Go and what is checked of them. The tests of `proto/go` call a daemon, and the examples are run: `host` does both.
const GO: [(&str, &[&[&str]]); 3] = [
    ("proto/go", &[&["build", "./..."], &["vet", "./..."]]),
    ("examples", &[&["vet", "./..."]]),
    ("tests/go", &[&["vet", "./..."], &["test", "./..."]]),
];

fn in_go(label: &str, command: Spec) -> Step {
    match tools::on_path("go") {
        Some(_) => Step::check(label, command),
        None => Step::skip(label, "needs Go, which is not on PATH"),
    }
}

fn clients(root: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    for (module, verbs) in GO {
        for verb in verbs {
            let label = format!("go {} in {module}", verb.join(" "));
            steps.push(in_go(&label, Spec { dir: Some(root.join(module)), ..Spec::new("go", verb) }));
        }
    }
    // Fails if it prints the name of a file.
    let mut formatted = vec!["-c", "! gofmt -l \"$@\" | grep .", "sh"];
    formatted.extend(GO.map(|(module, _)| module));
    steps.push(in_go("gofmt", Spec::new("sh", &formatted)));
    let mut doc =
        cargo(&["doc", "--workspace", "--document-private-items", "--no-deps", "--keep-going", "--locked", "--quiet"]);
    doc.env.push(("RUSTDOCFLAGS".to_owned(), "-D warnings".to_owned()));
    steps.push(Step::check("doc", doc));
    steps.push(match tools::cargo_tool(&tools::MDBOOK) {
        Ok(_) => Step::check("book", xtask(&["book"])),
        Err(error) => Step::skip("book", &format!("{error:#}")),
    });
    steps.push(Step::Run {
        label: "examples in documentation".to_owned(),
        // As the test programs are built: what they are made of is not built again.
        command: cargo(&["test", "--workspace", "--doc", "--locked", "--quiet", "--features", FAIL_POINTS]),
        count: Count::Libtest,
    });
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(package: &str, name: &str, lane: Lane) -> Binary {
        Binary { package: package.to_owned(), name: name.to_owned(), lane, file: "/bin/true".into(), dir: "/".into() }
    }

    fn labels(steps: &[Step]) -> Vec<&str> {
        steps
            .iter()
            .map(|s| match s {
                Step::Run { label, .. } | Step::Skip { label, .. } => label.as_str(),
            })
            .collect()
    }

    #[test]
    fn guests_run_root_tests_but_the_demo() {
        let all = vec![
            binary("bpfd-tests", "demo", Lane::Host),
            binary("bpfd-tests", "guest_peers", Lane::Guest),
            binary("bpfd-tests", "load", Lane::Host),
            binary("bpfd-core", "bpfd_core", Lane::Unit),
        ];
        let binaries = Binaries { commit: String::new(), all };
        let guest = |ready| Guest { kernel: "6.1", icount: false, ready };
        let steps = guest(&Ok(())).steps(&binaries, None);
        assert_eq!(labels(&steps), ["bpfd-tests::guest_peers on 6.1", "bpfd-tests::load on 6.1"]);
        assert_eq!(labels(&guest(&Ok(())).steps(&binaries, Some("load"))), ["bpfd-tests::load on 6.1"]);
        assert_eq!(labels(&guest(&Ok(())).steps(&binaries, Some("no such case"))), [""; 0]);
        let partly = Binaries { commit: String::new(), all: vec![binary("bpfd-tests", "host_attacks", Lane::Host)] };
        let steps = guest(&Ok(())).steps(&partly, None);
        let Some(Step::Run { command, .. }) = steps.first() else { panic!("it does not run") };
        assert_eq!(command.args.iter().filter(|arg| arg.ends_with("::")).count(), 3);
        let steps = guest(&Err("no qemu".to_owned())).steps(&binaries, None);
        assert!(steps.iter().all(|s| matches!(s, Step::Skip { reason, .. } if reason == "no qemu")));
    }

    #[test]
    fn shares_leave_room_for_the_build() {
        assert!(Part::ALL.iter().map(|p| p.share()).sum::<u32>() < 45);
    }
}
