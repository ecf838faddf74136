//! The way of reports from a pull or a load to whoever asked for it.

use std::sync::{Arc, Mutex, PoisonError};

pub use bpfd_core::report::{Phase, Progress};

/// Where reports go. Never blocks: a caller that does not read misses reports, not the result.
pub type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// Reports as a caller is to hear them: each phase once, in order. The work itself goes back: what the fetch worker verified the
/// daemon verifies again, and an image's object is read once to compare it with its label and once to load it.
pub fn in_order(send: impl Fn(Progress) + Send + Sync + 'static) -> Report {
    let order = Mutex::new(Order::default());
    Arc::new(move |progress| {
        if order.lock().unwrap_or_else(PoisonError::into_inner).admits(&progress) {
            send(progress);
        }
    })
}

/// How far the caller knows that it is.
#[derive(Debug, Default)]
struct Order {
    furthest: Option<Phase>,
}

impl Order {
    /// Whether a report is news: a phase further on, or more of this one.
    fn admits(&mut self, progress: &Progress) -> bool {
        let phase = Some(progress.phase);
        let more = phase == self.furthest && *progress != Progress::begin(progress.phase);
        let news = phase > self.furthest || more;
        self.furthest = self.furthest.max(phase);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(said: &[Progress], expected: &[Progress]) {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ear = heard.clone();
        let report = in_order(move |progress| ear.lock().unwrap().push(progress));
        said.iter().cloned().for_each(|progress| report(progress));
        assert_eq!(*heard.lock().unwrap(), expected);
    }

    #[test]
    fn each_phase_is_heard_once_and_in_order() {
        use Phase::{Attach, Fetch, Inspect, Load, Resolve, Verify};
        let bytes = |done| Progress { done: Some(done), total: Some(9), ..Progress::begin(Fetch) };
        let begin = Progress::begin;
        check(
            &[
                begin(Resolve),
                begin(Resolve),
                begin(Verify),
                bytes(0),
                bytes(9),
                begin(Verify),
                begin(Inspect),
                begin(Inspect),
                begin(Load),
                begin(Attach),
            ],
            &[begin(Resolve), begin(Verify), bytes(0), bytes(9), begin(Inspect), begin(Load), begin(Attach)],
        );
        // From the store: nothing was fetched, so the daemon's own judgement is the one that is heard of.
        check(&[begin(Resolve), begin(Verify), begin(Inspect)], &[begin(Resolve), begin(Verify), begin(Inspect)]);
    }
}
