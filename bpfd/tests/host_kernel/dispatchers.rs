//! Chains in libxdp's form: built, swapped, seen, adopted, taken apart; deaths between steps. On a kernel that does not let one
//! program replace another's function there is nothing to test, and each says so. Debian's xdp-loader as the peer is in
//! tests/tests/guest_libxdp.rs; here its part is played with the pins alone.

use std::fs;
use std::path::Path;

use bpfd::kernel::HostKernel;
use bpfd_core::hook::XdpMode;
use bpfd_core::ident::{GenerationUid, SlotUid};
use bpfd_core::kernel::{
    ChainContent, Kernel, Live, LiveDispatcher, LiveGeneration, Member, ObservedChain, OurSlot, Runs, Slot, Step,
    StepError,
};
use bpfd_core::names::Priority;
use uuid::Uuid;

use crate::world::{Loaded, Steps, World, eventually, members};

/// A member's slot, of a name that is easily found again.
fn slot(member: &Member) -> OurSlot {
    let bytes = member.link.bytes().map(|byte| !byte);
    OurSlot { uid: SlotUid::from_bytes(bytes), first: member.clone(), rest: vec![] }
}

fn load(slot: &OurSlot, apps: &[Loaded]) -> Step {
    Step::LoadCopy { slot: slot.clone(), recipes: apps.iter().cloned().collect() }
}

/// A dispatcher of these members, pinned; copies of their programs are loaded if they are not there.
fn dispatcher(kernel: &mut HostKernel, world: &World, members: &[Member], apps: &[Loaded]) -> LiveGeneration {
    let (generation, chain) = (GenerationUid(Uuid::new_v4()), world.inside());
    let there = kernel.look(&[]).copies;
    for slot in members.iter().map(slot).filter(|slot| !there.contains_key(&slot.uid)) {
        kernel.step(&load(&slot, apps)).unwrap();
    }
    let slots = members.iter().map(slot).map(Slot::Ours).collect();
    let content = ChainContent::Dispatcher { version: 2, slots };
    let program = kernel.step(&Step::BuildGeneration { generation, chain, content }).unwrap().unwrap();
    kernel.step(&Step::PinGeneration(generation)).unwrap();
    LiveGeneration { program, generation }
}

fn swap(kernel: &mut HostKernel, world: &World, from: Option<LiveGeneration>, to: Option<LiveGeneration>) {
    kernel.swap(&world.inside(), from, to.map(|live| live.generation), XdpMode::Auto).unwrap();
}

fn runs(generation: LiveGeneration, members: &[Member]) -> Live {
    let slots = members.iter().map(slot).map(Slot::Ours).collect();
    Live::Dispatcher(LiveDispatcher { generation, version: 2, slots, lost: vec![] })
}

/// What libxdp finds: directories, and the files in each.
fn shared(world: &World) -> Vec<(String, Vec<String>)> {
    let mut dirs: Vec<_> = names(&world.bpffs().join("xdp"))
        .into_iter()
        .map(|dir| (dir.clone(), names(&world.bpffs().join("xdp").join(dir))))
        .collect();
    dirs.sort();
    dirs
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The directory of a dispatcher with so many programs.
fn directory(world: &World, generation: LiveGeneration, programs: usize) -> (String, Vec<String>) {
    let index = world.inside().id.interface.index;
    let files = (0..programs).flat_map(|slot| [format!("prog{slot}-link"), format!("prog{slot}-prog")]);
    (format!("dispatch-{index}-{}", generation.program), files.collect())
}

/// What `xdp-loader clean` does from another network namespace, or what a crash of the daemon's own pins would be.
fn remove(dir: &Path) {
    names(dir).iter().for_each(|name| fs::remove_file(dir.join(name)).unwrap());
    fs::remove_dir(dir).unwrap();
}

#[test]
fn a_dispatcher_gains_turns_over_and_loses_links_in_one_swap_each() {
    let world = World::new();
    let Some(mut kernel) = world.sharing() else { return };
    let chain = world.inside();
    let apps: Vec<Loaded> = [1, 10].map(|step| kernel.load(&world, world.counter(step))).into();
    let wanted = members("count", &apps);

    let alone = dispatcher(&mut kernel, &world, &wanted[..1], &apps);
    assert_eq!(
        kernel.look(std::slice::from_ref(&chain)).generations[&alone.generation].runs,
        Runs::No,
        "built, not attached"
    );
    let alone = dispatcher(&mut kernel, &world, &wanted[..1], &apps);
    swap(&mut kernel, &world, None, Some(alone));
    let ObservedChain { live, driven, .. } = kernel.see(&chain);
    assert_eq!((live, driven), (runs(alone, &wanted[..1]), Some(XdpMode::Native)));
    assert_eq!(shared(&world), [directory(&world, alone, 1)]);
    world.send(5);
    world.counted(&apps, &[5, 0]);

    let both = dispatcher(&mut kernel, &world, &wanted, &apps);
    swap(&mut kernel, &world, Some(alone), Some(both));
    // As an undo does, in the same operation.
    swap(&mut kernel, &world, Some(both), Some(alone));
    assert_eq!(kernel.see(&chain).live, runs(alone, &wanted[..1]));
    assert_eq!(shared(&world), [directory(&world, alone, 1)], "put back for peers too");
    let both = dispatcher(&mut kernel, &world, &wanted, &apps);
    swap(&mut kernel, &world, Some(alone), Some(both));
    kernel.step(&Step::UnpinGeneration(alone.generation)).unwrap();
    assert_eq!(kernel.see(&chain).live, runs(both, &wanted));
    assert_eq!(shared(&world), [directory(&world, both, 2)]);
    world.send(5);
    world.counted(&apps, &[10, 50]);

    let five = Priority::try_from(5).unwrap();
    let first = Member { priority: five, effective: five, ..wanted[1].clone() };
    let turned = [first.clone(), wanted[0].clone()];
    let over = dispatcher(&mut kernel, &world, &turned, &apps);
    let raced = kernel.swap(&chain, Some(alone), Some(over.generation), XdpMode::Auto);
    assert_eq!(raced, Err(StepError::Raced(chain.name.clone())), "another one runs by now");
    let over = dispatcher(&mut kernel, &world, &turned, &apps);
    swap(&mut kernel, &world, Some(both), Some(over));
    kernel.step(&Step::UnpinGeneration(both.generation)).unwrap();
    assert_eq!(kernel.see(&chain).live, runs(over, &turned));

    let last = dispatcher(&mut kernel, &world, std::slice::from_ref(&first), &apps);
    swap(&mut kernel, &world, Some(over), Some(last));
    kernel.step(&Step::UnpinGeneration(over.generation)).unwrap();
    world.send(2);
    world.counted(&apps, &[10, 70]);
    swap(&mut kernel, &world, Some(last), None);
    let generations = kernel.look(&[]).generations;
    generations.keys().for_each(|generation| assert_eq!(kernel.step(&Step::UnpinGeneration(*generation)), Ok(None)));
    wanted.iter().for_each(|member| assert_eq!(kernel.step(&Step::UnpinCopy(slot(member).uid)), Ok(None)));
    let seen = kernel.look(std::slice::from_ref(&chain));
    assert_eq!((&seen.chains[&chain.id].live, seen.generations.len(), seen.copies.len()), (&Live::Empty, 0, 0));
    assert_eq!(shared(&world), []);
}

#[test]
fn after_a_restart_a_dispatcher_that_a_peer_made_is_adopted_and_outlives_the_peers_clean_up() {
    let world = World::new();
    let Some(mut kernel) = world.sharing() else { return };
    let chain = world.inside();
    let apps: Vec<Loaded> = [1, 10].map(|step| kernel.load(&world, world.counter(step))).into();
    let wanted = members("count", &apps);
    let made = dispatcher(&mut kernel, &world, &wanted, &apps);
    swap(&mut kernel, &world, None, Some(made));
    let before = kernel.look(std::slice::from_ref(&chain));
    drop(kernel);
    let mut kernel = world.sharing().unwrap();
    assert_eq!(kernel.look(std::slice::from_ref(&chain)), before, "a restart sees the same");
    drop(kernel);

    // Without pins of our own it is like one that a peer made around our programs.
    let top_pins = |generation: LiveGeneration| world.pins().join("top").join(generation.generation.to_string());
    let libxdps = |world: &World| world.bpffs().join("xdp").join(&shared(world)[0].0);
    remove(&top_pins(made));
    let mut kernel = world.sharing().unwrap();
    let theirs = LiveGeneration { generation: GenerationUid::of_peer(made.program), ..made };
    assert_eq!(kernel.see(&chain).live, runs(theirs, &wanted));
    kernel.step(&Step::Adopt { chain: chain.clone(), live: theirs }).unwrap();
    let seen = kernel.look(std::slice::from_ref(&chain));
    assert_eq!((seen.generations[&theirs.generation].runs, seen.members(&chain.id)), (Runs::Yes, wanted.clone()));
    remove(&libxdps(&world));
    assert_eq!(kernel.see(&chain).live, runs(theirs, &wanted));
    world.send(3);
    world.counted(&apps, &[3, 30]);

    let next = dispatcher(&mut kernel, &world, &wanted, &apps);
    swap(&mut kernel, &world, Some(theirs), Some(next));
    kernel.step(&Step::UnpinGeneration(theirs.generation)).unwrap();
    assert_eq!(kernel.see(&chain).live, runs(next, &wanted));

    // The control: what nobody holds is lost to the same clean-up.
    remove(&top_pins(next));
    remove(&libxdps(&world));
    eventually(
        || matches!(kernel.see(&chain).live, Live::Dispatcher(live) if live.slots.is_empty() && live.lost.len() == 2),
    );
    world.send(3);
    world.counted(&apps, &[3, 30]);
}

#[test]
fn what_a_death_between_two_steps_leaves_is_found_and_taken_away() {
    let world = World::new();
    let Some(mut kernel) = world.sharing() else { return };
    let chain = world.inside();
    let apps = [kernel.load(&world, world.counter(1))];
    let wanted = members("count", &apps);
    let slot = slot(&wanted[0]);

    kernel.step(&load(&slot, &apps)).unwrap();
    drop(kernel);
    fs::create_dir(world.pins().join(format!("ext/{}_tmp", Uuid::new_v4().simple()))).unwrap();
    let mut kernel = world.sharing().unwrap();
    assert_eq!(kernel.look(&[]).copies.keys().copied().collect::<Vec<_>>(), [slot.uid], "load-ext: a whole copy");
    assert_eq!(names(&world.pins().join("ext")), [slot.uid.to_string()], "and no half one");

    let content = ChainContent::Dispatcher { version: 2, slots: vec![Slot::Ours(slot)] };
    let built = GenerationUid(Uuid::new_v4());
    kernel.step(&Step::BuildGeneration { generation: built, chain: chain.clone(), content }).unwrap();
    drop(kernel);
    let mut kernel = world.sharing().unwrap();
    assert!(kernel.look(&[]).generations.is_empty(), "build-top: nothing");

    let pinned = dispatcher(&mut kernel, &world, &wanted, &apps);
    let (half, _) = directory(&world, pinned, 1);
    drop(kernel);
    fs::create_dir_all(world.bpffs().join("xdp").join(&half)).unwrap();
    let mut kernel = world.sharing().unwrap();
    assert_eq!(
        kernel.look(&[]).generations[&pinned.generation].runs,
        Runs::No,
        "pin-top: a generation that nothing runs"
    );
    kernel.step(&Step::UnpinGeneration(pinned.generation)).unwrap();
    assert_eq!(
        (shared(&world), kernel.look(&[]).generations.len()),
        (vec![], 0),
        "with what libxdp would have found of it"
    );

    let first = dispatcher(&mut kernel, &world, &wanted, &apps);
    swap(&mut kernel, &world, None, Some(first));
    let second = dispatcher(&mut kernel, &world, &wanted, &apps);
    swap(&mut kernel, &world, Some(first), Some(second));
    drop(kernel);
    let mut kernel = world.sharing().unwrap();
    let seen = kernel.look(std::slice::from_ref(&chain));
    assert_eq!(
        (seen.generations[&first.generation].runs, seen.generations[&second.generation].runs),
        (Runs::No, Runs::Yes),
        "swap"
    );
    kernel.step(&Step::UnpinGeneration(first.generation)).unwrap();
    assert_eq!(kernel.see(&chain).live, runs(second, &wanted));
    assert_eq!(shared(&world), [directory(&world, second, 1)]);
    world.send(2);
    world.counted(&apps, &[2]);
    swap(&mut kernel, &world, Some(second), None);
}
