//! Own hooks: their kernel links outlive the process.

use bpfd_core::hook::OwnHook;
use bpfd_core::ident::{AppUid, LinkUid};
use bpfd_core::kernel::{Kernel, Step, StepError};
use bpfd_core::state::ProgramKind;
use uuid::Uuid;

use crate::world::{Steps, World, eventually};

fn hook(tracepoint: &str) -> OwnHook {
    OwnHook::parse(ProgramKind::Tracepoint, tracepoint).unwrap()
}

fn step(link: LinkUid, app: AppUid, tracepoint: &str) -> Step {
    Step::AttachLink { link, app, function: "on_switch".into(), hook: hook(tracepoint) }
}

#[test]
fn a_tracepoint_counts_across_a_restart_until_it_is_detached() {
    let world = World::new();
    let mut kernel = world.kernel();
    let recipe = world.recipe(world.example("tracepoint-count"), &[("on_switch", ProgramKind::Tracepoint)]);
    let (app, _) = kernel.load(&world, recipe);
    let link = LinkUid(Uuid::new_v4());
    kernel.step(&step(link, app, "sched/sched_switch")).unwrap();
    assert_eq!(kernel.look(&[]).links.into_iter().collect::<Vec<_>>(), [link]);
    drop(kernel);

    let mut kernel = world.kernel();
    let before = world.count(app, "switches");
    // Starting and reaping a process switches.
    std::process::Command::new("true").status().unwrap();
    assert!(world.count(app, "switches") > before);

    kernel.step(&Step::DetachLink(link)).unwrap();
    assert!(kernel.look(&[]).links.is_empty());
    eventually(|| {
        let before = world.count(app, "switches");
        std::process::Command::new("true").status().unwrap();
        world.count(app, "switches") == before
    });
}

#[test]
fn a_tracepoint_that_this_kernel_has_not_is_told() {
    let world = World::new();
    let mut kernel = world.kernel();
    let recipe = world.recipe(world.example("tracepoint-count"), &[("on_switch", ProgramKind::Tracepoint)]);
    let (app, _) = kernel.load(&world, recipe);
    let refused = kernel.step(&step(LinkUid(Uuid::new_v4()), app, "sched/no_such_event"));
    let told = StepError::NoTarget(hook("sched/no_such_event"));
    assert_eq!(refused, Err(told));
    assert!(kernel.look(&[]).links.is_empty());
}
