//! Where a daemon may be killed while it carries out a verb, and what becomes of the verb: the table of `spec/state.md`, made of the
//! verb's steps. The names are those of the daemon's fail points. It must never know what a step does.

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

/// Every point of a verb with these steps before its commit, and these after it, in the order in which it comes to them.
pub fn points(verb: Verb, steps: &[&str], cleaning: &[&str]) -> Vec<Point> {
    let around = |step: &str| ["before", "after"].map(|side| format!("step-{step}-{side}"));
    let mut names = vec!["journal-begin-before".to_owned(), "journal-begin-after".to_owned()];
    for step in steps {
        names.extend(around(step));
        names.push("journal-step-after".to_owned());
    }
    let done_from = match verb {
        // The last step's: from there on the kernel has it.
        Verb::Adds => names.len().saturating_sub(2),
        Verb::Removes => 1,
    };
    names.extend(["journal-commit-before", "journal-commit-after"].map(str::to_owned));
    names.extend(cleaning.iter().flat_map(|step| around(step)));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(verb: Verb, steps: &[&str], cleaning: &[&str]) -> Vec<String> {
        let points = points(verb, steps, cleaning).into_iter();
        points.map(|Point { name, passed, became }| format!("{name} {passed} {became:?}")).collect()
    }

    #[test]
    fn a_verb_that_adds_is_done_once_its_last_step_is() {
        assert_eq!(
            told(Verb::Adds, &["pin-app", "swap"], &["unpin-top"]),
            [
                "journal-begin-before 0 Nothing",
                "journal-begin-after 0 Nothing",
                "step-pin-app-before 0 Nothing",
                "step-pin-app-after 0 Nothing",
                "journal-step-after 0 Nothing",
                "step-swap-before 0 Nothing",
                "step-swap-after 0 Done",
                "journal-step-after 1 Done",
                "journal-commit-before 0 Done",
                "journal-commit-after 0 Done",
                "step-unpin-top-before 0 Done",
                "step-unpin-top-after 0 Done",
            ]
        );
    }

    #[test]
    fn a_verb_that_removes_is_done_once_it_is_begun() {
        let points = told(Verb::Removes, &[], &["detach-link"]);
        assert_eq!(points[..2], ["journal-begin-before 0 Nothing", "journal-begin-after 0 Done"]);
        assert_eq!(points[4..], ["step-detach-link-before 0 Done", "step-detach-link-after 0 Done"]);
    }
}
