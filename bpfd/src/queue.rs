//! A queue of jobs that threads do: any thread puts one in, in the line of whoever asked for it, and the threads take them by turns.
//!
//! It must never decide whose turn it is (`turns` does), nor run a job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use tokio::sync::oneshot;

use crate::turns::{Full, Line, Serves, Turns};

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
        // Not every thread serves everybody.
        self.0.0.changed.notify_all();
    }

    /// Puts in a job that is taken when no other waits.
    pub fn push_last(&self, job: J) {
        self.0.0.state().0.push_last(job);
        self.0.0.changed.notify_all();
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
    /// Takes jobs, each when the one before is done, until there are none and nobody can put one in any more.
    pub fn each(&self, serves: Serves, mut work: impl FnMut(J)) {
        while let Some((line, job)) = self.next(serves) {
            work(job);
            self.0.state().0.done(line);
            self.0.changed.notify_all();
        }
    }

    fn next(&self, serves: Serves) -> Option<(Line, J)> {
        let mut state = self.0.state();
        loop {
            let (turns, ended) = &mut *state;
            match (turns.pop(serves), *ended) {
                (None, Ended::No) => state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                (job, _) => return job,
            }
        }
    }
}

impl<S: 'static> Queue<Work<S>> {
    /// Threads that do the jobs of a new queue, each with something of its own, and one more for those of root and the daemon. A job that
    /// panics, which stderr says, ends alone.
    pub fn with_threads(name: &str, threads: usize, own: impl Fn() -> S + Clone + Send + 'static) -> io::Result<Self> {
        let (queue, jobs) = Self::new();
        for serves in std::iter::repeat_n(Serves::All, threads).chain([Serves::Root]) {
            let (jobs, own) = (jobs.clone(), own.clone());
            thread::Builder::new().name(name.to_owned()).spawn(move || {
                let mut mine = own();
                jobs.each(serves, |job| {
                    if catch_unwind(AssertUnwindSafe(|| job(&mut mine))).is_err() {
                        mine = own();
                    }
                });
            })?;
        }
        Ok(queue)
    }

    /// What a piece of work gives, done on one of the threads in its turn; `None` if it panicked. Of a caller that leaves before, it is
    /// not done.
    pub async fn answer<T: Send + 'static>(
        &self,
        line: Line,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Result<Option<T>, Full> {
        let place = self.place(line)?;
        let (answer, result) = oneshot::channel();
        self.push(
            line,
            Box::new(move |own| {
                let _until_done = place;
                if !answer.is_closed() {
                    // Nobody may be there by now.
                    drop(answer.send(work(own)));
                }
            }),
        );
        Ok(result.await.ok())
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
        let mut done = Vec::new();
        jobs.each(Serves::All, |job| done.push(job));
        assert_eq!(done, ["last"]);
    }

    #[test]
    fn jobs_that_last_leave_other_users_and_root_a_thread() {
        let queue = Queue::<Work<()>>::with_threads("test", 2, || ()).unwrap();
        let ((begun, begins), (hold, held)) = (mpsc::channel(), mpsc::channel::<()>());
        let held = Arc::new(Mutex::new(held));
        let lasts = |user| {
            let (begun, held) = (begun.clone(), held.clone());
            queue.push(
                Line::User(user),
                Box::new(move |()| {
                    begun.send(user).unwrap();
                    assert!(held.lock().unwrap().recv().is_err());
                }),
            );
        };
        lasts(7);
        assert_eq!(begins.recv(), Ok(7));
        lasts(7);
        lasts(8);
        assert_eq!(begins.recv(), Ok(8));
        lasts(0);
        assert_eq!(begins.recv(), Ok(0));
        assert!(begins.try_recv().is_err(), "7 has one under way");
        drop(hold);
        assert_eq!(begins.recv(), Ok(7));
    }

    #[test]
    fn a_job_that_panics_ends_alone() {
        // Of a user whom one thread serves.
        let queue = Queue::<Work<u32>>::with_threads("test", 1, || 0).unwrap();
        let (told, tells) = mpsc::channel();
        queue.push(Line::User(7), Box::new(|count| *count += 1));
        queue.push(Line::User(7), Box::new(|_| panic!("this one panics, as it should")));
        queue.push(Line::User(7), Box::new(move |count| told.send(*count).unwrap()));
        assert_eq!(tells.recv(), Ok(0), "begun anew");
    }
}
