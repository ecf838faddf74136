//! What stands around chains: the mount, workers that die, what a death left half-made, steps on what is not there, the mode.

use std::collections::BTreeMap;

use bpfd_core::chain::room::Room;
use bpfd_core::cow::CowMap;
use bpfd_core::hook::XdpMode;
use bpfd_core::kernel::{ChainContent, ChainMode, Kernel, Step, StepError};
use bpfd_core::mode::Setting;

use crate::world::{Steps, World, app, member};

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
    let (none, generation) = (app(), bpfd_core::ident::GenerationUid(app().0));
    assert!(matches!(kernel.step(&Step::PinApp(none)), Err(StepError::Call { .. })));
    assert!(matches!(kernel.step(&Step::PinGeneration(generation)), Err(StepError::Call { .. })));
    assert!(matches!(kernel.swap(&chain, None, Some(generation), XdpMode::Auto), Err(StepError::Call { .. })));
    for step in [
        Step::DropGeneration(generation),
        Step::UnpinGeneration(generation),
        Step::DetachLink(bpfd_core::ident::LinkUid(none.0)),
    ] {
        kernel.step(&step).unwrap();
    }
    let content =
        ChainContent::Fused { members: vec![member(none, "count", 1)], recipes: BTreeMap::new(), room: Room::All };
    let refused = kernel.step(&Step::BuildGeneration { generation, chain: chain.clone(), content }).unwrap_err();
    assert!(matches!(refused, StepError::Call { .. }), "{refused}");
    assert_eq!(kernel.look(&[chain]).generations, CowMap::default());
}

#[test]
fn the_kernel_decides_the_mode_and_a_mode_that_it_imposes_has_a_cause() {
    let world = World::new();
    let allowed = world.open(Setting::Libxdp).is_ok();
    let by_itself = world.open(Setting::Auto).unwrap();
    match by_itself.mode() {
        ChainMode::Fused { cause } => assert!(!allowed && !cause.is_empty()),
        other => assert!(allowed, "{other}"),
    }
    drop(by_itself);
    assert!(matches!(world.kernel().mode(), ChainMode::Fused { .. }), "by a setting, everywhere");
}
