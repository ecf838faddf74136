//! Whose job is next: a line for each user, for root and for the daemon itself, served in turn, and how many jobs each may have. Of one
//! user but root, one job is under way at a time, and some threads serve root and the daemon alone.
//!
//! Pure data. It must never know what a job is, nor wait for one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Jobs of one user that wait or are under way: half of its calls, so that it can still ask for other things.
const OF_ONE: usize = 32;
/// The same of root and of the daemon: agents of the host run as root.
const OF_ROOT: usize = 512;

/// Whose line a job stands in.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Line {
    /// The daemon's own.
    Daemon,
    /// A user's.
    User(u32),
}

/// Whose jobs a thread does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Serves {
    /// Everybody's.
    All,
    /// Root's and the daemon's: a job of theirs waits for none of another user.
    Root,
}

/// A user has as many jobs as it may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} requests of your user id wait or are under way")]
pub struct Full(pub usize);

/// The daemon, root, and all others together take turns, and so do the others among themselves: a job of root waits for at most one of
/// another user, however many of these wait.
#[derive(Debug)]
pub struct Turns<T> {
    daemon: VecDeque<T>,
    root: VecDeque<T>,
    /// The next one is in front. None of these lines is empty.
    others: VecDeque<(u32, VecDeque<T>)>,
    /// Done when nothing else waits.
    last: VecDeque<T>,
    next: Turn,
    /// Other users who have a job under way.
    busy: BTreeSet<u32>,
    places: BTreeMap<Line, usize>,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Daemon,
    Root,
    Others,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        let (daemon, root, others, last) = Default::default();
        Self { daemon, root, others, last, next: Turn::Root, busy: BTreeSet::new(), places: BTreeMap::new() }
    }
}

impl<T> Turns<T> {
    /// Takes one of the places of a line.
    pub fn enter(&mut self, line: Line) -> Result<(), Full> {
        let limit = match line {
            Line::Daemon | Line::User(0) => OF_ROOT,
            Line::User(_) => OF_ONE,
        };
        let taken = self.places.entry(line).or_default();
        if *taken >= limit {
            return Err(Full(limit));
        }
        *taken += 1;
        Ok(())
    }

    /// Gives it back.
    pub fn leave(&mut self, line: Line) {
        let left = self.places.get(&line).copied().unwrap_or_default().saturating_sub(1);
        match left {
            0 => self.places.remove(&line),
            left => self.places.insert(line, left),
        };
    }

    /// One more job, at the end of its line.
    pub fn push(&mut self, line: Line, job: T) {
        match line {
            Line::Daemon => self.daemon.push_back(job),
            Line::User(0) => self.root.push_back(job),
            Line::User(uid) => match self.others.iter_mut().find(|(of, _)| *of == uid) {
                Some((_, jobs)) => jobs.push_back(job),
                None => self.others.push_back((uid, [job].into())),
            },
        }
    }

    /// A job that is done when nothing else waits.
    pub fn push_last(&mut self, job: T) {
        self.last.push_back(job);
    }

    /// The next job, and in whose line it stood: [`Self::done`] is to be told when it is done.
    pub fn pop(&mut self, serves: Serves) -> Option<(Line, T)> {
        for _ in 0..3 {
            let (job, next) = match (self.next, serves) {
                (Turn::Daemon, _) => (self.daemon.pop_front().map(|job| (Line::Daemon, job)), Turn::Root),
                (Turn::Root, _) => (self.root.pop_front().map(|job| (Line::User(0), job)), Turn::Others),
                (Turn::Others, Serves::All) => (self.pop_other(), Turn::Daemon),
                (Turn::Others, Serves::Root) => (None, Turn::Daemon),
            };
            self.next = next;
            if job.is_some() {
                return job;
            }
        }
        match serves {
            Serves::All => self.last.pop_front().map(|job| (Line::Daemon, job)),
            Serves::Root => None,
        }
    }

    /// A job of this line is done.
    pub fn done(&mut self, line: Line) {
        match line {
            Line::User(uid) => drop(self.busy.remove(&uid)),
            Line::Daemon => {}
        }
    }

    fn pop_other(&mut self) -> Option<(Line, T)> {
        let place = self.others.iter().position(|(uid, _)| !self.busy.contains(uid))?;
        let (uid, mut jobs) = self.others.remove(place)?;
        let job = jobs.pop_front()?;
        self.busy.insert(uid);
        if !jobs.is_empty() {
            self.others.push_back((uid, jobs));
        }
        Some((Line::User(uid), job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the next job, and does it.
    fn next<T>(turns: &mut Turns<T>) -> Option<T> {
        let (line, job) = turns.pop(Serves::All)?;
        turns.done(line);
        Some(job)
    }

    /// Pushes jobs of these users, named after them, and gives the order in which they are done.
    fn order(pushed: &[(Line, &'static str)]) -> Vec<&'static str> {
        let mut turns = Turns::default();
        pushed.iter().for_each(|(line, job)| turns.push(*line, *job));
        std::iter::from_fn(|| next(&mut turns)).collect()
    }

    const ROOT: Line = Line::User(0);

    #[test]
    fn jobs_of_one_user_are_done_in_their_order() {
        assert_eq!(order(&[(ROOT, "a"), (ROOT, "b"), (ROOT, "c")]), ["a", "b", "c"]);
        assert_eq!(order(&[(Line::User(7), "a"), (Line::User(7), "b")]), ["a", "b"]);
    }

    #[test]
    fn users_take_turns_however_many_jobs_one_has() {
        let (seven, eight) = (Line::User(7), Line::User(8));
        assert_eq!(
            order(&[(seven, "7"), (seven, "7"), (seven, "7"), (eight, "8"), (eight, "8")]),
            ["7", "8", "7", "8", "7"]
        );
    }

    #[test]
    fn a_job_of_root_waits_for_one_of_another_user_at_most() {
        for before in 0..5 {
            let mut turns = Turns::default();
            (0..1000).for_each(|job| turns.push(Line::User(7 + job % 50), "other"));
            // Wherever the turn is.
            (0..before).for_each(|_| assert_eq!(next(&mut turns), Some("other")));
            turns.push(ROOT, "root");
            turns.push(ROOT, "root");
            let order: Vec<&str> = std::iter::from_fn(|| next(&mut turns)).take(5).collect();
            let place = order.iter().position(|job| *job == "root");
            assert!(place.is_some_and(|place| place <= 1), "{order:?}");
            assert_eq!(order.iter().filter(|job| **job == "root").count(), 2, "{order:?}");
        }
    }

    #[test]
    fn others_are_served_beside_root_and_the_daemon() {
        let mut turns = Turns::default();
        for _ in 0..100 {
            turns.push(ROOT, "root");
            turns.push(Line::Daemon, "daemon");
        }
        turns.push(Line::User(7), "other");
        let order: Vec<&str> = std::iter::from_fn(|| next(&mut turns)).take(3).collect();
        assert!(order.contains(&"other"), "{order:?}");
    }

    #[test]
    fn the_last_job_comes_after_all_others() {
        let mut turns = Turns::default();
        turns.push_last("last");
        turns.push(Line::User(7), "other");
        turns.push(ROOT, "root");
        let order: Vec<&str> = std::iter::from_fn(|| next(&mut turns)).collect();
        assert_eq!(order, ["root", "other", "last"]);
    }

    #[test]
    fn a_user_has_one_job_under_way_and_root_has_a_thread_of_its_own() {
        let (seven, eight) = (Line::User(7), Line::User(8));
        let mut turns = Turns::default();
        for (line, job) in [(seven, "7"), (seven, "7 again"), (eight, "8"), (eight, "8 again")] {
            turns.push(line, job);
        }
        turns.push_last("last");
        assert_eq!(turns.pop(Serves::Root), None);
        assert_eq!((turns.pop(Serves::All), turns.pop(Serves::All)), (Some((seven, "7")), Some((eight, "8"))));
        // Whatever else they asked for waits, and what is done when nothing else can be.
        assert_eq!(turns.pop(Serves::All), Some((Line::Daemon, "last")));
        assert_eq!(turns.pop(Serves::All), None);
        turns.push(ROOT, "root");
        turns.push(ROOT, "root again");
        assert_eq!(turns.pop(Serves::Root), Some((ROOT, "root")));
        assert_eq!(turns.pop(Serves::All), Some((ROOT, "root again")));
        turns.done(eight);
        assert_eq!(turns.pop(Serves::All), Some((eight, "8 again")));
        assert_eq!(turns.pop(Serves::All), None);
    }

    #[test]
    fn a_user_has_so_many_places_and_takes_none_of_others() {
        let mut turns = Turns::<()>::default();
        (0..OF_ONE).for_each(|_| turns.enter(Line::User(7)).unwrap());
        assert_eq!(turns.enter(Line::User(7)), Err(Full(OF_ONE)));
        for other in [Line::User(8), ROOT, Line::Daemon] {
            turns.enter(other).unwrap();
        }
        turns.leave(Line::User(7));
        turns.enter(Line::User(7)).unwrap();
        assert_eq!(turns.enter(Line::User(7)), Err(Full(OF_ONE)));
    }
}
