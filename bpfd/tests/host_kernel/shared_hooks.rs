//! Chains on interfaces: built, swapped, seen, taken apart; races, restarts and strangers.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bpfd::kernel::{HostKernel, held_by};
use bpfd_core::cow::CowMap;
use bpfd_core::hook::{ProceedOn, XdpMode};
use bpfd_core::kernel::{ForeignProgram, Kernel, Live, LiveGeneration, Runs, Scope, Step, StepError, Targets};
use bpfd_core::state::ProgramKind;
use bpfd_sys::bpf::{ProgLoad, ProgramType, link_create_xdp, link_info, obj_get, prog_load};
use bpfd_sys::netlink::{Expected, Route, XdpMode as Driven};
use bpfd_sys::netns::Netns;

use crate::world::{Loaded, Steps, World, eventually, member, members};

const DROP: u32 = 1;
const PASS: u32 = 2;

fn counters(world: &World, kernel: &mut HostKernel, steps: &[u32]) -> Vec<Loaded> {
    steps.iter().map(|step| kernel.load(world, world.counter(*step))).collect()
}

/// A chain that runs.
fn run(world: &World, kernel: &mut HostKernel, apps: &[Loaded]) -> LiveGeneration {
    let generation = kernel.build(&world.inside(), &members("count", apps), apps).unwrap();
    kernel.swap(&world.inside(), None, Some(generation.generation), XdpMode::Auto).unwrap();
    generation
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
        let generation = kernel.build(&chain, &wanted, &apps).unwrap();
        assert_eq!(
            kernel.look(std::slice::from_ref(&chain)).generations[&generation.generation].runs,
            Runs::No,
            "built, not attached"
        );

        kernel.swap(&chain, None, Some(generation.generation), XdpMode::Auto).unwrap();
        let seen = kernel.look(std::slice::from_ref(&chain));
        assert_eq!(seen.chains[&chain.id].live, Live::Ours(generation));
        assert_eq!(seen.chains[&chain.id].driven, Some(XdpMode::Native), "veth has native XDP");
        assert_eq!(seen.members(&chain.id), wanted);
        assert_eq!(seen.generations[&generation.generation].runs, Runs::Yes);

        let before = counts(&world, &apps);
        world.send(5);
        let wanted: Vec<u64> = before.iter().zip([5, 50, 500]).map(|(before, more)| before + more).collect();
        world.counted(&apps, &wanted);

        kernel.swap(&chain, Some(generation), None, XdpMode::Auto).unwrap();
        kernel.step(&Step::UnpinGeneration(generation.generation)).unwrap();
        for (app, _) in &apps {
            kernel.step(&Step::UnpinApp(*app)).unwrap();
        }
        let seen = kernel.look(std::slice::from_ref(&chain));
        assert_eq!(seen.chains[&chain.id].live, Live::Empty);
        assert_eq!((seen.apps, seen.generations), (CowMap::default(), CowMap::default()));
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
    assert_eq!((world.verdict(ends.generation), world.count(counter.0, "packets")), (DROP, 0));

    let on_drop = ProceedOn::from_names(["drop"]).unwrap();
    let goes_on = [bpfd_core::kernel::Member { proceed_on: on_drop, ..drop.clone() }, count];
    let goes_on = kernel.build(&world.inside(), &goes_on, &apps).unwrap();
    assert_eq!((world.verdict(goes_on.generation), world.count(counter.0, "packets")), (PASS, 1));

    let alone = [bpfd_core::kernel::Member { proceed_on: on_drop, ..drop }];
    let alone = kernel.build(&world.inside(), &alone, &apps).unwrap();
    assert_eq!(world.verdict(alone.generation), DROP, "one program: its raw verdict");
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
    kernel.swap(&chain, Some(old), Some(new.generation), XdpMode::Auto).unwrap();
    kernel.step(&Step::UnpinGeneration(old.generation)).unwrap();
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

    assert_eq!(kernel.swap(&chain, None, Some(other.generation), XdpMode::Auto), raced, "expects nothing");
    assert_eq!(kernel.swap(&chain, Some(other), Some(running.generation), XdpMode::Auto), raced, "expects another one");
    assert_eq!(kernel.swap(&chain, Some(other), None, XdpMode::Auto), raced, "detach of another one");
    let renamed = LiveGeneration { generation: running.generation, program: other.program };
    assert_eq!(
        kernel.swap(&chain, Some(renamed), Some(other.generation), XdpMode::Auto),
        raced,
        "number and name differ"
    );
    assert_eq!(kernel.see(&chain).live, Live::Ours(running));

    let Err(StepError::Call { doing, errno }) =
        kernel.swap(&chain, Some(running), Some(other.generation), XdpMode::Generic)
    else {
        panic!("native and generic at once")
    };
    assert_eq!(doing, format!("attach to `{chain}` in generic mode"));
    assert_eq!(errno, "an XDP program is attached in native mode");
    kernel.swap(&chain, Some(running), Some(other.generation), XdpMode::Native).unwrap();
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
            let ours = world.program_of(ours.generation);
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
            match kernel.swap(&chain, Some(ours), Some(other.generation), XdpMode::Auto) {
                Ok(()) => {
                    happened += 1;
                    kernel.swap(&chain, Some(other), Some(ours.generation), XdpMode::Auto).unwrap();
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
    let generation = kernel.build(&chain, &members("count", &apps), &apps).unwrap();

    let refused = kernel.swap(&chain, None, Some(generation.generation), XdpMode::Native).unwrap_err();
    let StepError::Call { doing, errno } = &refused else { panic!("{refused}") };
    assert_eq!(doing, &format!("change what `{chain}` runs in native mode"));
    assert!(errno.contains("not supported"), "{errno}");

    kernel.swap(&chain, None, Some(generation.generation), XdpMode::Auto).unwrap();
    assert_eq!(kernel.see(&chain).driven, Some(XdpMode::Generic));
    kernel.swap(&chain, Some(generation), None, XdpMode::Auto).unwrap();
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

    let generation = kernel.build(&chain, &members("count", &apps), &apps).unwrap();
    let refused = kernel.swap(&chain, None, Some(generation.generation), XdpMode::Auto);
    assert_eq!(refused, Err(StepError::Raced(chain.name.clone())), "never over a stranger's program");
    drop(link);
    eventually(|| kernel.see(&chain).live == Live::Empty);
    kernel.swap(&chain, None, Some(generation.generation), XdpMode::Auto).unwrap();
}

#[test]
fn a_generation_serves_only_the_interface_it_was_made_for() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1]);
    let generation = run(&world, &mut kernel, &apps);
    world.ip("link del inside");
    let gone = kernel.look(std::slice::from_ref(&chain));
    assert_eq!((&gone.interfaces[&chain.name], gone.missing.contains(&chain.id)), (&None, true));
    assert_eq!(gone.generations[&generation.generation].runs, Runs::No);
    assert_eq!(
        kernel.swap(&chain, None, Some(generation.generation), XdpMode::Auto),
        Err(StepError::NoInterface(chain.name.clone()))
    );

    world.make_veth();
    let chain = world.inside();
    assert_eq!(
        kernel.swap(&chain, None, Some(generation.generation), XdpMode::Auto),
        Err(StepError::Raced(chain.name.clone()))
    );
    let fresh = kernel.build(&chain, &members("count", &apps), &apps).unwrap();
    kernel.swap(&chain, None, Some(fresh.generation), XdpMode::Auto).unwrap();
}

#[test]
fn an_absent_namespace_has_no_interface_and_its_generations_run_nowhere() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1]);
    let generation = run(&world, &mut kernel, &apps);

    let mut elsewhere = chain.clone();
    elsewhere.name.netns = "no-such-namespace".parse().unwrap();
    let seen = kernel.look(std::slice::from_ref(&elsewhere));
    assert_eq!((seen.interfaces[&elsewhere.name], seen.namespaces[&elsewhere.name.netns]), (None, None));
    let refused = kernel.swap(&elsewhere, Some(generation), None, XdpMode::Auto);
    assert_eq!(refused, Err(StepError::NoInterface(elsewhere.name.clone())));
    assert_eq!(
        kernel.look(&[]).generations[&generation.generation].runs,
        Runs::Yes,
        "found by its cookie, though nobody asked for the chain"
    );
}

#[test]
fn a_program_that_somebody_replaces_between_two_reads_is_read_again() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let index = chain.id.interface.index;
    let stop = AtomicBool::new(false);
    let mut seen = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let route = Netns::named(&world.netns).unwrap().within(Route::open).unwrap().unwrap();
            let put = |from: Option<&OwnedFd>, to: Option<&OwnedFd>| {
                let expected = from.map_or(Expected::Nothing, |from| Expected::Program(from.as_fd()));
                route.set_xdp(index, to.map(AsFd::as_fd), expected, Driven::Native).unwrap();
            };
            let mut before = None;
            while !stop.load(Ordering::Relaxed) {
                // Each is a program of its own, which is gone with the next one.
                let next = stranger();
                put(before.as_ref(), Some(&next));
                before = Some(next);
            }
            put(before.as_ref(), None);
        });
        let stopped = Stop(&stop);
        for look in 0..300 {
            let targets = Targets { names: [chain.name.clone()].into(), chains: [chain.id].into() };
            // That it cannot be read for all the changes is an error, and no wrong word.
            let Ok(observed) = kernel.observe(&Scope::Everything(targets)) else { continue };
            if let Live::Foreign(ForeignProgram { name, .. }) = &observed.chains[&chain.id].live {
                assert_eq!(name, "stranger", "look {look}");
                seen += 1;
            }
        }
        drop(stopped);
    });
    assert!(seen > 0, "some look must have seen what the rival put there");
}

/// A program that passes everything.
fn stranger() -> OwnedFd {
    // r0 = XDP_PASS; exit
    const CODE: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    prog_load(&ProgLoad { name: "stranger", ..ProgLoad::new(ProgramType::XDP, c"GPL", &CODE) }).unwrap()
}

#[test]
fn what_ran_in_a_deleted_namespace_runs_nowhere() {
    let world = World::new();
    let chain = world.inside();
    let mut kernel = world.kernel();
    let apps = counters(&world, &mut kernel, &[1]);
    let generation = run(&world, &mut kernel, &apps);
    world.delete_netns();
    let strange = world.bpffs().with_file_name("netns").join("strange");
    std::fs::write(&strange, "").unwrap();
    // The namespace ends a moment after its last socket was closed.
    eventually(|| kernel.look(&[]).generations[&generation.generation].runs == Runs::No);
    // A name that cannot be looked behind may lead to where it runs, for who has not seen that the number of its namespace went.
    drop(kernel);
    let mut kernel = world.kernel();
    assert_eq!(kernel.look(&[]).generations[&generation.generation].runs, Runs::Unseen);
    std::fs::remove_file(&strange).unwrap();
    let seen = kernel.look(std::slice::from_ref(&chain));
    assert_eq!((seen.missing.contains(&chain.id), seen.generations[&generation.generation].runs), (true, Runs::No));
    kernel.swap(&chain, Some(generation), None, XdpMode::Auto).unwrap_err();
    kernel.step(&Step::UnpinGeneration(generation.generation)).unwrap();
}
