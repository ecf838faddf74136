//! Places where a test may end the process: `FAILPOINTS="step-swap-after=return"` in the environment of a daemon built with the
//! feature `failpoints` kills it there with SIGKILL. Without the feature a point is nothing.
//!
//! The names are `journal-*` around each write of the journal, `step-<verb>-*` around each step, `undo-*` and `repair-*`; the
//! crash test lists them and fails if one was not reached.

/// Arms the points that the environment names, for the life of the process.
pub fn arm() {
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
}

/// Ends the process here if a test asked for it.
pub fn point(name: &str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |_| die());
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// As `kill -9` would: no destructor runs, no buffer is flushed.
#[cfg(feature = "failpoints")]
fn die() {
    let own = rustix::process::getpid();
    if rustix::process::kill_process(own, rustix::process::Signal::KILL).is_err() {
        std::process::abort();
    }
}
