//! Where a daemon may be killed while it carries out a verb, takes one back or repairs, and what becomes of the verb: the table of
//! `spec/state.md`, made of the verb's steps. The names are those of the daemon's fail points, all of them: a point that no case
//! comes to fails this file's own test. It must never know what a step does.

use std::collections::BTreeMap;

/// What a verb became after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// It never happened.
    Nothing,
    /// It happened wholly.
    Done,
}

/// What a verb does, as far as repair cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It adds or moves: it goes back until the kernel has all that it wanted.
    Adds,
    /// It only removes: it goes forward once it is in the journal.
    Removes,
}

/// A point of a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The fail point.
    pub name: String,
    /// How often the verb passes it unharmed.
    pub passed: usize,
    /// What becomes of the verb if the daemon dies there.
    pub became: Became,
}

/// A verb's steps.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    verb: Verb,
    /// Before its commit.
    steps: &'static [&'static str],
    /// After it.
    cleaning: &'static [&'static str],
}

const fn adds(steps: &'static [&'static str], cleaning: &'static [&'static str]) -> Steps {
    Steps { verb: Verb::Adds, steps, cleaning }
}

const fn removes(steps: &'static [&'static str], cleaning: &'static [&'static str]) -> Steps {
    Steps { verb: Verb::Removes, steps, cleaning }
}

const CHAIN: &[&str] = &["build-top", "pin-top", "swap"];
const CHAIN_WITH_COPY: &[&str] = &["load-ext", "build-top", "pin-top", "swap"];

/// A load that attaches, in a chain of one program.
pub const LOAD: Steps = adds(&["pin-app", "build-top", "pin-top", "swap"], &["record", "record", "unpin-top"]);
/// A load that does not attach.
pub const LOAD_ALONE: Steps = adds(&["pin-app"], &["record"]);
/// An attach.
pub const ATTACH: Steps = adds(CHAIN, &["record", "unpin-top"]);
/// An update.
pub const UPDATE: Steps = adds(CHAIN, &["record", "unpin-top"]);
/// A detach.
pub const DETACH: Steps = removes(CHAIN, &["unrecord", "unpin-top"]);
/// An unload of what is attached.
pub const UNLOAD: Steps = removes(CHAIN, &["unrecord", "unpin-top", "unpin-app"]);
/// A load that attaches to a tracepoint.
pub const TRACE: Steps = adds(&["pin-app", "attach-link"], &["record", "record"]);
/// A detach from one.
pub const UNTRACE: Steps = removes(&[], &["unrecord", "detach-link"]);
/// A load that attaches, in a dispatcher.
pub const SHARED_LOAD: Steps =
    adds(&["pin-app", "load-ext", "build-top", "pin-top", "swap"], &["record", "record", "unpin-top"]);
/// An attach in a dispatcher.
pub const SHARED_ATTACH: Steps = adds(CHAIN_WITH_COPY, &["record", "unpin-top"]);
/// An update in a dispatcher: the copy of the program moves as it is.
pub const SHARED_UPDATE: Steps = adds(CHAIN, &["record", "unpin-top"]);
/// A detach in a dispatcher.
pub const SHARED_DETACH: Steps = removes(CHAIN, &["unrecord", "unpin-top", "unpin-ext"]);
/// An unload of what is attached in a dispatcher.
pub const SHARED_UNLOAD: Steps = removes(CHAIN, &["unrecord", "unpin-top", "unpin-ext", "unpin-app"]);

/// A load that attaches to tc: each program has a generation of its own.
pub const TC_LOAD: Steps = adds(&["pin-app", "build-top", "pin-top", "swap"], &["record", "record"]);
/// An update on tc that moves a program: it comes to its new place before it leaves the old one.
pub const TC_MOVE: Steps = adds(&["build-top", "pin-top", "swap", "swap"], &["record", "unpin-top"]);
/// An update on tc of a program that stays where it is.
pub const TC_UPDATE: Steps = adds(CHAIN, &["record", "unpin-top"]);
/// A detach from tc.
pub const TC_DETACH: Steps = removes(&["swap"], &["unrecord", "unpin-top"]);
/// An unload of what is attached to tc.
pub const TC_UNLOAD: Steps = removes(&["swap"], &["unrecord", "unpin-top", "unpin-app"]);

/// Points of a load that is taken back, since its last step was refused.
pub const UNDONE: [&str; 12] = [
    "undo-swap-before",
    "undo-swap-after",
    "undo-attach-link-before",
    "undo-attach-link-after",
    "undo-pin-top-before",
    "undo-pin-top-after",
    "undo-build-top-before",
    "undo-build-top-after",
    "undo-pin-app-before",
    "undo-pin-app-after",
    "journal-abandon-before",
    "journal-abandon-after",
];

/// Steps of a repair that loads what a boot took.
pub const REPAIRED_AFTER_A_BOOT: [&str; 6] = ["pin-app", "build-top", "pin-top", "attach-link", "swap", "record"];
/// Steps of a repair that ends what was begun.
pub const REPAIRED_REMOVALS: [&str; 4] = ["unpin-top", "detach-link", "unpin-app", "unrecord"];
/// Steps of a repair where chains are dispatchers.
pub const REPAIRED_SHARED: [&str; 3] = ["load-ext", "unpin-ext", "adopt"];

impl Steps {
    /// Every point of the verb, in the order in which it comes to them.
    pub fn points(&self) -> Vec<Point> {
        let Self { verb, steps, cleaning } = self;
        let mut names =
            ["journal-begin-before", "journal-begin-after", "audit-begin-after"].map(str::to_owned).to_vec();
        for step in *steps {
            names.extend(around("step", step));
        }
        let done_from = match verb {
            // The last step's: from there on the kernel has it.
            Verb::Adds => names.len().saturating_sub(1),
            Verb::Removes => 1,
        };
        names.extend(["journal-commit-before", "journal-commit-after"].map(str::to_owned));
        names.extend(cleaning.iter().flat_map(|step| around("step", step)));
        names.extend(["audit-end-before", "audit-end-after"].map(str::to_owned));
        let mut passed = BTreeMap::<String, usize>::new();
        let points = names.into_iter().enumerate().map(|(index, name)| {
            let times = passed.entry(name.clone()).or_default();
            let point =
                Point { name, passed: *times, became: if index < done_from { Became::Nothing } else { Became::Done } };
            *times += 1;
            point
        });
        points.collect()
    }
}

/// The points on both sides of a step.
pub fn around(what: &str, step: &str) -> [String; 2] {
    ["before", "after"].map(|side| format!("{what}-{step}-{side}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn told(steps: &Steps) -> Vec<String> {
        let points = steps.points().into_iter();
        points.map(|Point { name, passed, became }| format!("{name} {passed} {became:?}")).collect()
    }

    #[test]
    fn a_verb_that_adds_is_done_once_its_last_step_is() {
        assert_eq!(
            told(&adds(&["pin-app", "swap"], &["unpin-top"])),
            [
                "journal-begin-before 0 Nothing",
                "journal-begin-after 0 Nothing",
                "audit-begin-after 0 Nothing",
                "step-pin-app-before 0 Nothing",
                "step-pin-app-after 0 Nothing",
                "step-swap-before 0 Nothing",
                "step-swap-after 0 Done",
                "journal-commit-before 0 Done",
                "journal-commit-after 0 Done",
                "step-unpin-top-before 0 Done",
                "step-unpin-top-after 0 Done",
                "audit-end-before 0 Done",
                "audit-end-after 0 Done",
            ]
        );
    }

    #[test]
    fn a_verb_that_removes_is_done_once_it_is_begun() {
        let points = told(&UNTRACE);
        assert_eq!(points[..2], ["journal-begin-before 0 Nothing", "journal-begin-after 0 Done"]);
        let last = ["step-detach-link-before", "step-detach-link-after", "audit-end-before", "audit-end-after"];
        assert_eq!(points[points.len() - 4..], last.map(|point| format!("{point} 0 Done")));
    }

    /// Nobody can be killed there on a real kernel; `bpfd/tests/crashes.rs` dies there in memory. `adopt` is a step of a change only if
    /// a peer came between the news of it and the change. No plan has `drop-top`, and what has no undo is never undone.
    fn is_in_memory_only(point: &str) -> bool {
        let steps = ["step-adopt", "step-drop-top", "undo-adopt", "undo-load-ext", "repair-drop-top"];
        let without_undo = ["drop-top", "detach-link", "unpin-top", "unpin-ext", "unpin-app", "record", "unrecord"];
        let without_undo = without_undo.map(|step| format!("undo-{step}"));
        steps
            .iter()
            .map(|step| (*step).to_owned())
            .chain(without_undo)
            .any(|step| point.strip_prefix(&*step).is_some_and(|side| side == "-before" || side == "-after"))
    }

    #[test]
    fn a_case_comes_to_every_point_of_the_daemon() {
        let source = |file: &str| std::fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let quoted = |text: &str| text.split('"').nth(1).unwrap().to_owned();
        let verbs = source("bpfd/core/src/kernel.rs");
        let verbs = verbs.split_once("fn verb(&self)").unwrap().1.split_once("\n    }\n").unwrap().0;
        let verbs: Vec<String> = verbs.lines().filter(|line| line.contains("=> \"")).map(quoted).collect();
        assert!(verbs.len() > 10, "{verbs:?}");
        let takes = source("bpfd/src/execute.rs") + &source("bpfd/src/repair.rs");
        let names = takes.lines().filter(|line| line.trim_start().starts_with("point(")).map(quoted);
        let expanded = names.flat_map(|name| match name.contains("{}") {
            true => verbs.iter().map(|verb| name.replace("{}", verb)).collect(),
            false => vec![name],
        });
        let there: BTreeSet<String> = expanded.filter(|point| !is_in_memory_only(point)).collect();

        let of_verbs = [
            LOAD,
            LOAD_ALONE,
            ATTACH,
            UPDATE,
            DETACH,
            UNLOAD,
            TRACE,
            UNTRACE,
            SHARED_LOAD,
            SHARED_ATTACH,
            SHARED_UPDATE,
            SHARED_DETACH,
            SHARED_UNLOAD,
        ];
        let of_repair = REPAIRED_AFTER_A_BOOT.iter().chain(&REPAIRED_REMOVALS).chain(&REPAIRED_SHARED);
        let mut come_to: BTreeSet<String> =
            of_verbs.iter().flat_map(Steps::points).map(|Point { name, .. }| name).collect();
        come_to.extend(UNDONE.map(str::to_owned));
        come_to.extend(of_repair.flat_map(|step| around("repair", step)));
        come_to.extend(around("repair", "verdict"));
        // Around the adoption of a lost state.
        come_to.extend(around("repair", "lost"));
        assert_eq!(there, come_to);
    }
}
