//! Chains on interfaces: built, swapped, seen, taken apart; races, restarts and strangers.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bpfd::kernel::{HostKernel, held_by};
use bpfd_core::hook::{ProceedOn, XdpMode};
use bpfd_core::kernel::{ChainMode, ForeignProgram, Kernel, Live, LiveTop, Missing, Runs, Step, StepError, TopContent};
use bpfd_core::mode::Setting;
use bpfd_core::state::ProgramKind;
use bpfd_sys::bpf::{link_create_xdp, link_info, obj_get};
use bpfd_sys::netlink::{Expected, Route, XdpMode as Driven};
use bpfd_sys::netns::Netns;

use crate::world::{Loaded, Steps, World, app, eventually, member, members};

const DROP: u32 = 1;
const PASS: u32 = 2;

fn counters(world: &World, kernel: &mut HostKernel, steps: &[u32]) -> Vec<Loaded> {
    steps.iter().map(|step| kernel.load(world, world.counter(*step))).collect()
}

/// A chain that runs.
fn run(world: &World, kernel: &mut HostKernel, apps: &[Loaded]) -> LiveTop {
    let top = kernel.build(&world.inside(), &members("count", apps), apps).unwrap();
    kernel.swap(&world.inside(), None, Some(top.top), XdpMode::Auto).unwrap();
    top
}

fn counts(world: &World, apps: &[Loaded]) -> Vec<u64> {
    apps.iter().map(|(app, _)| world.count(*app, "packets")).collect()
}

#[test]
fn chains_of_one_to_three_members_run_each_of_them_and_come_apart() {
    let world = World::new();
    let mut kernel = world.kernel();
    let chain = world.inside();
    for length in 1..=3 {
        let apps = counters(&world, &mut kernel, &[1, 10, 100][..length]);
        let wanted = members("count", &apps);
        let top = kernel.build(&chain, &wanted, &apps).unwrap();
        assert_eq!(kernel.look(std::slice::from_ref(&chain)).tops[&top.top].runs, Runs::No, "built, not attached");

        kernel.swap(&chain, None, Some(top.top), XdpMode::Auto).unwrap();
        let seen = kernel.look(std::slice::from_ref(&chain));
        assert_eq!(seen.chains[&chain.id].live, Live::Ours(top));
        assert_eq!(seen.chains[&chain.id].driven, Some(XdpMode::Native), "veth has native XDP");
        assert_eq!(seen.members(&chain.id), wanted);
        assert_eq!(seen.tops[&top.top].runs, Runs::Yes);

        let before = counts(&world, &apps);
        world.send(5);
        let wanted: Vec<u64> = before.iter().zip([5, 50, 500]).map(|(before, more)| before + more).collect();
        world.counted(&apps, &wanted);

        kernel.swap(&chain, Some(top), None, XdpMode::Auto).unwrap();
        kernel.step(&Step::UnpinTop(top.top)).unwrap();
        for (app, _) in &apps {
            kernel.step(&Step::UnpinApp(*app)).unwrap();
        }
        let seen = kernel.look(std::slice::from_ref(&chain));
        assert_eq!(seen.chains[&chain.id].live, Live::Empty);
        assert_eq!((seen.apps, seen.tops), (BTreeMap::new(), BTreeMap::new()));
    }
}

#[test]
fn a_verdict_outside_a_members_set_ends_the_chain() {
    let world = World::new();
    let mut kernel = world.kernel();
    let source = "SEC(\"xdp\") int drop(struct xdp_md *ctx) { return XDP_DROP; } char L[] SEC(\"license\") = \"GPL\";";
    let dropper = kernel.load(&world, world.recipe(world.source(source), &[("drop", ProgramKind::Xdp)]));
    let counter = kernel.load(&world, world.counter(1));
    let apps = [dropper.clone(), counter.clone()];
    let (drop, count) = (member(dropper.0, "drop", 1), member(counter.0, "count", 2));

    let ends = kernel.build(&world.inside(), &[drop.clone(), count.clone()], &apps).unwrap();
    assert_eq!((world.verdict(ends.top), world.count(counter.0, "packets")), (DROP, 0));

    let on_drop = ProceedOn::from_names(["drop"]).unwrap();
    let goes_on = [bpfd_core::kernel::Member { proceed_on: on_drop, ..drop.clone() }, count];
    let goes_on = kernel.build(&world.inside(), &goes_on, &apps).unwrap();
    assert_eq!((world.verdict(goes_on.top), world.count(counter.0, "packets")), (PASS, 1));

    let alone = [bpfd_core::kernel::Member { proceed_on: on_drop, ..drop }];
    let alone = kernel.build(&world.inside(), &alone, &apps).unwrap();
    assert_eq!(world.verdict(alone.top), DROP, "one program: its raw verdict");
}

#[test]
fn after_a_restart_everything_is_seen_as_before_and_fuses_again_around_the_same_counters() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let mut apps = counters(&world, &mut kernel, &[1, 10]);
    let old = run(&world, &mut kernel, &apps);
    world.send(3);
    let before = kernel.look(std::slice::from_ref(&chain));
    drop(kernel);

    world.send(4);
    let mut kernel = world.kernel();
    assert_eq!(kernel.look(std::slice::from_ref(&chain)), before);
    world.counted(&apps, &[7, 70]);

    apps.push(kernel.load(&world, world.counter(100)));
    let new = kernel.build(&chain, &members("count", &apps), &apps).unwrap();
    kernel.swap(&chain, Some(old), Some(new.top), XdpMode::Auto).unwrap();
    kernel.step(&Step::UnpinTop(old.top)).unwrap();
    world.send(2);
    world.counted(&apps, &[9, 90, 200]);
    assert_eq!(kernel.see(&chain).live, Live::Ours(new));
}

#[test]
fn a_second_bpfd_is_kept_away() {
    let world = World::new();
    let kernel = world.kernel();
    let paths = bpfd::kernel::Paths { bpffs: world.bpffs(), ..Default::default() };
    let none = Arc::new(|_: &_| Err(std::io::ErrorKind::NotFound.into()));
    let refused = HostKernel::open(paths, crate::world::workers(), none).err().unwrap();
    assert!(matches!(refused, bpfd::kernel::OpenError::Busy(_)), "{refused}");
    drop(kernel);
    drop(world.kernel());
}

#[test]
fn a_swap_from_anything_but_what_runs_is_a_race_and_changes_nothing() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1, 10]);
    let running = run(&world, &mut kernel, &apps[..1]);
    let other = kernel.build(&chain, &members("count", &apps), &apps).unwrap();
    let raced = Err(StepError::Raced(chain.name.clone()));

    assert_eq!(kernel.swap(&chain, None, Some(other.top), XdpMode::Auto), raced, "expects nothing");
    assert_eq!(kernel.swap(&chain, Some(other), Some(running.top), XdpMode::Auto), raced, "expects another one");
    assert_eq!(kernel.swap(&chain, Some(other), None, XdpMode::Auto), raced, "detach of another one");
    let renamed = LiveTop { top: running.top, program: other.program };
    assert_eq!(kernel.swap(&chain, Some(renamed), Some(other.top), XdpMode::Auto), raced, "number and name differ");
    assert_eq!(kernel.see(&chain).live, Live::Ours(running));

    let Err(StepError::Call { doing, errno }) = kernel.swap(&chain, Some(running), Some(other.top), XdpMode::Generic)
    else {
        panic!("native and generic at once")
    };
    assert_eq!(doing, format!("attach to `{chain}` in generic mode"));
    assert_eq!(errno, "an XDP program is attached in native mode");
    kernel.swap(&chain, Some(running), Some(other.top), XdpMode::Native).unwrap();
}

/// Ends the rival, after a panic too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn against_a_rival_every_swap_happens_or_is_a_race() {
    const ROUNDS: u32 = 40;
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1, 10]);
    let ours = run(&world, &mut kernel, &apps[..1]);
    let other = kernel.build(&chain, &members("count", &apps), &apps).unwrap();
    let index = chain.id.interface.index;
    let stop = AtomicBool::new(false);
    let (happened, raced) = std::thread::scope(|scope| {
        // Takes the place of `ours` and gives it back, by the same compare-and-swap.
        let rival = scope.spawn(|| {
            let route = Netns::named(&world.netns).unwrap().within(Route::open).unwrap().unwrap();
            let program = obj_get(&world.pins().join(apps[1].0.to_string()).join("prog_count")).unwrap();
            let ours = world.top_program(ours.top);
            let swap = |from: &OwnedFd, to: &OwnedFd| {
                route.set_xdp(index, Some(to.as_fd()), Expected::Program(from.as_fd()), Driven::Native).is_ok()
            };
            while !stop.load(Ordering::Relaxed) {
                if swap(&ours, &program) {
                    assert!(swap(&program, &ours), "nobody else replaces the rival's program");
                }
            }
        });
        let stopped = Stop(&stop);
        let (mut happened, mut raced) = (0, 0);
        while happened < ROUNDS {
            match kernel.swap(&chain, Some(ours), Some(other.top), XdpMode::Auto) {
                Ok(()) => {
                    happened += 1;
                    kernel.swap(&chain, Some(other), Some(ours.top), XdpMode::Auto).unwrap();
                }
                Err(StepError::Raced(_)) => raced += 1,
                Err(error) => panic!("{error}"),
            }
        }
        drop(stopped);
        rival.join().unwrap();
        (happened, raced)
    });
    println!("{happened} swaps, {raced} races");
    assert_eq!(kernel.see(&chain).live, Live::Ours(ours));
}

#[test]
fn a_device_without_native_xdp_is_driven_in_generic_mode_unless_native_was_asked_for() {
    let world = World::new();
    let chain = world.chain("lo");
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1]);
    let top = kernel.build(&chain, &members("count", &apps), &apps).unwrap();

    let refused = kernel.swap(&chain, None, Some(top.top), XdpMode::Native).unwrap_err();
    let StepError::Call { doing, errno } = &refused else { panic!("{refused}") };
    assert_eq!(doing, &format!("change what `{chain}` runs in native mode"));
    assert!(errno.contains("not supported"), "{errno}");

    kernel.swap(&chain, None, Some(top.top), XdpMode::Auto).unwrap();
    assert_eq!(kernel.see(&chain).driven, Some(XdpMode::Generic));
    kernel.swap(&chain, Some(top), None, XdpMode::Auto).unwrap();
    assert_eq!(kernel.see(&chain).live, Live::Empty);
}

#[test]
fn a_strangers_program_is_told_with_its_link_and_who_holds_it() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1]);
    let pin = world.pins().join(apps[0].0.to_string()).join("prog_count");
    let program = obj_get(&pin).unwrap();
    let index = chain.id.interface.index;
    let link =
        Netns::named(&world.netns).unwrap().within(|| link_create_xdp(program.as_fd(), index, 0)).unwrap().unwrap();
    let info = link_info(link.as_fd()).unwrap();

    let Live::Foreign(foreign) = kernel.see(&chain).live else { panic!("foreign") };
    let ForeignProgram { program, name, link: held, holders } = &foreign;
    assert_eq!(holders, &Vec::<String>::new(), "not looked up by what plans");
    assert_eq!((program.0, name.as_str(), *held), (info.prog_id.0, "count", Some(info.id.0)));
    let (own, holders) = (format!("{} (", std::process::id()), held_by(&foreign));
    assert!(holders.iter().any(|holder| holder.starts_with(&own)), "{holders:?}");

    let top = kernel.build(&chain, &members("count", &apps), &apps).unwrap();
    let refused = kernel.swap(&chain, None, Some(top.top), XdpMode::Auto);
    assert_eq!(refused, Err(StepError::Raced(chain.name.clone())), "never over a stranger's program");
    drop(link);
    eventually(|| kernel.see(&chain).live == Live::Empty);
    kernel.swap(&chain, None, Some(top.top), XdpMode::Auto).unwrap();
}

#[test]
fn a_generation_serves_only_the_interface_it_was_made_for() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1]);
    let top = run(&world, &mut kernel, &apps);
    world.ip("link del inside");
    let gone = kernel.look(std::slice::from_ref(&chain));
    assert_eq!((&gone.interfaces[&chain.name], gone.missing[&chain.id]), (&None, Missing::Gone));
    assert_eq!(gone.tops[&top.top].runs, Runs::No);
    assert_eq!(
        kernel.swap(&chain, None, Some(top.top), XdpMode::Auto),
        Err(StepError::NoInterface(chain.name.clone()))
    );

    world.make_veth();
    let chain = world.inside();
    assert_eq!(kernel.swap(&chain, None, Some(top.top), XdpMode::Auto), Err(StepError::Raced(chain.name.clone())));
    let fresh = kernel.build(&chain, &members("count", &apps), &apps).unwrap();
    kernel.swap(&chain, None, Some(fresh.top), XdpMode::Auto).unwrap();
}

#[test]
fn an_absent_namespace_has_no_interface_and_its_generations_run_nowhere() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1]);
    let top = run(&world, &mut kernel, &apps);

    let mut elsewhere = chain.clone();
    elsewhere.name.netns = "no-such-namespace".parse().unwrap();
    let seen = kernel.look(std::slice::from_ref(&elsewhere));
    assert_eq!((seen.interfaces[&elsewhere.name], seen.namespaces[&elsewhere.name.netns]), (None, None));
    let refused = kernel.swap(&elsewhere, Some(top), None, XdpMode::Auto);
    assert_eq!(refused, Err(StepError::NoInterface(elsewhere.name.clone())));
    assert_eq!(
        kernel.look(&[]).tops[&top.top].runs,
        Runs::Yes,
        "found by its cookie, though nobody asked for the chain"
    );
}

#[test]
fn what_ran_in_a_deleted_namespace_runs_nowhere() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1]);
    let top = run(&world, &mut kernel, &apps);
    world.delete_netns();
    // A name that cannot be looked behind may lead to where it runs.
    let strange = world.bpffs().with_file_name("netns").join("strange");
    std::fs::write(&strange, "").unwrap();
    assert_eq!(kernel.look(&[]).tops[&top.top].runs, Runs::Unseen);
    std::fs::remove_file(&strange).unwrap();
    let seen = kernel.look(std::slice::from_ref(&chain));
    assert_eq!((seen.missing[&chain.id], seen.tops[&top.top].runs), (Missing::Unreachable, Runs::No));
    kernel.swap(&chain, Some(top), None, XdpMode::Auto).unwrap_err();
    kernel.step(&Step::UnpinTop(top.top)).unwrap();
}

#[test]
fn the_pins_cannot_be_unmounted_under_a_running_bpfd() {
    let world = World::new();
    let kernel = world.kernel();
    let busy = bpfd_sys::bpffs::unmount(&world.bpffs()).unwrap_err();
    assert_eq!(busy.kind(), std::io::ErrorKind::ResourceBusy);
    drop(kernel);
}

#[test]
fn a_worker_that_was_killed_is_started_again() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let before = kernel.see(&chain);
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
    let [worker] = children.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
    let worker = rustix::process::Pid::from_raw(worker.parse().unwrap()).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
    assert_eq!(kernel.see(&chain), before);
}

#[test]
fn what_a_death_left_half_made_is_told_or_swept() {
    let world = World::new();
    let half = app();
    std::fs::create_dir_all(world.pins().join(format!("{half}_tmp"))).unwrap();
    std::fs::create_dir_all(world.pins().join(format!("top/{half}_tmp"))).unwrap();
    std::fs::create_dir_all(world.pins().join("somebody-elses")).unwrap();
    let mut kernel = world.kernel();
    let seen = kernel.look(&[]);
    assert_eq!(seen.half_made.into_iter().collect::<Vec<_>>(), [half]);
    assert!(!world.pins().join(format!("top/{half}_tmp")).exists(), "swept");
    kernel.step(&Step::UnpinApp(half)).unwrap();
    assert!(!world.pins().join(format!("{half}_tmp")).exists());
    assert!(world.pins().join("somebody-elses").exists(), "not ours");
    kernel.step(&Step::UnpinApp(half)).unwrap();
}

#[test]
fn steps_on_what_is_not_there_fail_or_do_nothing_but_never_half() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let (none, top) = (app(), bpfd_core::ident::TopUid(app().0));
    assert!(matches!(kernel.step(&Step::PinApp(none)), Err(StepError::Call { .. })));
    assert!(matches!(kernel.step(&Step::PinTop(top)), Err(StepError::Call { .. })));
    assert!(matches!(kernel.swap(&chain, None, Some(top), XdpMode::Auto), Err(StepError::Call { .. })));
    for step in [Step::DropTop(top), Step::UnpinTop(top), Step::DetachLink(bpfd_core::ident::LinkUid(none.0))] {
        kernel.step(&step).unwrap();
    }
    let content = TopContent::Fused { members: vec![member(none, "count", 1)], recipes: BTreeMap::new() };
    let refused = kernel.step(&Step::BuildTop { top, chain: chain.clone(), content }).unwrap_err();
    assert!(matches!(refused, StepError::Call { .. }), "{refused}");
    assert_eq!(kernel.look(&[chain]).tops, BTreeMap::new());
}

#[test]
fn the_kernel_decides_the_mode_and_a_mode_that_it_imposes_has_a_cause() {
    let world = World::new();
    let allowed = world.open(Setting::Libxdp).is_ok();
    let by_itself = world.open(Setting::Auto).unwrap();
    match by_itself.mode() {
        ChainMode::Fused { cause } => assert!(!allowed && !cause.is_empty()),
        ChainMode::Libxdp => assert!(allowed),
    }
    drop(by_itself);
    assert!(matches!(world.kernel().mode(), ChainMode::Fused { .. }), "by a setting, everywhere");
}
