//! Places where a test may end the process: `FAILPOINTS="step-swap-after=return"` in the environment of a daemon built with the
//! feature `failpoints` kills it there with SIGKILL. Without the feature a point is nothing.
//!
//! The names are `journal-*` around each write of the journal, `audit-*` around the first and the last record of an
//! operation, `step-<verb>-*` around each step, `undo-*` and `repair-*`; the
//! crash test lists them and fails if one was not reached. `watch-fails` and `interfaces-watch-fails` end a watch. At others a test may hold what is done: `FAILPOINTS="load-made=return(FIFO)"`;
//! `image-quota=return(BYTES)` is another quota of the image store, and `registry-patience=return(MILLISECONDS)` how long a registry may be
//! silent; a pull may take six times as long.

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

/// Whether a test asked for a failure here.
pub fn fails(name: &str) -> bool {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |_| true);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
    false
}

/// Waits here as long as a test has the FIFO open for writing that it named.
pub fn hold(name: &str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, wait_for);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// A number that a test gives.
pub fn bytes(name: &str) -> Option<u64> {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |number| number.and_then(|number| number.parse().ok()));
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
    None
}

/// First for a writer, then for its end.
#[cfg(feature = "failpoints")]
fn wait_for(fifo: Option<String>) {
    if let Some(Err(error)) = fifo.map(std::fs::read) {
        tracing::error!(%error, "a fail point does not hold");
    }
}

/// As `kill -9` would: no destructor runs, no buffer is flushed.
#[cfg(feature = "failpoints")]
fn die() {
    let own = rustix::process::getpid();
    if rustix::process::kill_process(own, rustix::process::Signal::KILL).is_err() {
        std::process::abort();
    }
}
