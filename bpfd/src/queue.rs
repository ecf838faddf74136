//! A queue of jobs that threads do: any thread puts one in, in the line of whoever asked for it, and the threads take them by turns.
//!
//! It must never decide whose turn it is (`turns` does), nor run a job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use crate::turns::{Full, Line, Turns};

/// The way into a queue. It ends when the last one is dropped.
pub struct Queue<J>(Arc<Entrance<J>>);

struct Entrance<J>(Arc<Shared<J>>);

struct Shared<J> {
    state: Mutex<(Turns<J>, Ended)>,
    changed: Condvar,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Ended {
    No,
    Yes,
}

/// The other end: where jobs come out.
pub struct Jobs<J>(Arc<Shared<J>>);

/// A job of a thread that has something of its own.
pub type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// One of the places that a user has in a queue. Dropped, it is free.
pub struct Place<J> {
    queue: Queue<J>,
    line: Line,
}

impl<J> Clone for Queue<J> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<J> Clone for Jobs<J> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<J> Queue<J> {
    /// An empty one, and its other end.
    pub fn new() -> (Self, Jobs<J>) {
        let shared = Arc::new(Shared { state: Mutex::new((Turns::default(), Ended::No)), changed: Condvar::new() });
        (Self(Arc::new(Entrance(shared.clone()))), Jobs(shared))
    }

    /// A place in a user's line, if there is one.
    pub fn place(&self, line: Line) -> Result<Place<J>, Full> {
        self.0.0.state().0.enter(line)?;
        Ok(Place { queue: self.clone(), line })
    }

    /// Puts in a job without a place: whoever calls this sees to it that there are not too many.
    pub fn push(&self, line: Line, job: J) {
        self.0.0.state().0.push(line, job);
        self.0.0.changed.notify_one();
    }

    /// Puts in a job that is taken when no other waits.
    pub fn push_last(&self, job: J) {
        self.0.0.state().0.push_last(job);
        self.0.0.changed.notify_one();
    }
}

impl<J> Place<J> {
    /// Puts in a job, which may be one of several that the place is taken for.
    pub fn push(&self, job: J) {
        self.queue.push(self.line, job);
    }
}

impl<J> Drop for Place<J> {
    fn drop(&mut self) {
        self.queue.0.0.state().0.leave(self.line);
    }
}

impl<J> Drop for Entrance<J> {
    fn drop(&mut self) {
        self.0.state().1 = Ended::Yes;
        self.0.changed.notify_all();
    }
}

impl<J> Shared<J> {
    fn state(&self) -> MutexGuard<'_, (Turns<J>, Ended)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> Jobs<J> {
    /// Waits for the next job; `None` if there is none and nobody can put one in any more.
    pub fn next(&self) -> Option<J> {
        let waits = |(turns, ended): &mut (Turns<J>, Ended)| {
            let job = turns.pop();
            (job.is_none() && *ended == Ended::No, job)
        };
        let mut state = self.0.state();
        loop {
            match waits(&mut state) {
                (false, job) => return job,
                (true, _) => state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl<S: 'static> Queue<Work<S>> {
    /// Threads that do the jobs of a new queue, each with something of its own. A job that panics, which stderr says, ends alone.
    pub fn with_threads(name: &str, threads: usize, own: impl Fn() -> S + Clone + Send + 'static) -> io::Result<Self> {
        let (queue, jobs) = Self::new();
        for _ in 0..threads {
            let (jobs, own) = (jobs.clone(), own.clone());
            thread::Builder::new().name(name.to_owned()).spawn(move || {
                let mut mine = own();
                while let Some(job) = jobs.next() {
                    if catch_unwind(AssertUnwindSafe(|| job(&mut mine))).is_err() {
                        mine = own();
                    }
                }
            })?;
        }
        Ok(queue)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_queue_ends_when_nobody_can_put_a_job_in() {
        let (queue, jobs) = Queue::new();
        let place = queue.place(Line::User(7)).unwrap();
        drop(queue);
        place.push("last");
        drop(place);
        assert_eq!((jobs.next(), jobs.next()), (Some("last"), None));
    }

    #[test]
    fn a_job_that_panics_ends_alone() {
        let queue = Queue::<Work<u32>>::with_threads("test", 1, || 0).unwrap();
        let (told, tells) = mpsc::channel();
        queue.push(Line::Daemon, Box::new(|count| *count += 1));
        queue.push(Line::Daemon, Box::new(|_| panic!("this one panics, as it should")));
        queue.push(Line::Daemon, Box::new(move |count| told.send(*count).unwrap()));
        assert_eq!(tells.recv(), Ok(0), "begun anew");
    }
}
