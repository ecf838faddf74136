//! Hears from the kernel when interfaces come, go or change what they run, in the daemon's own network namespace, and has the
//! engine look. It must never look or change anything itself.
//!
//! Events of named namespaces are not heard: their links are looked at with the next change, and at every start.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bpfd_sys::netlink::LinkWatch;
use rustix::event::{PollFd, PollFlags, poll};

use crate::engine::EngineHandle;
use crate::execute::Repaired;
use crate::kernel::HostKernel;

/// Starts listening; ends with the engine.
pub fn start(engine: EngineHandle<HostKernel>) -> io::Result<()> {
    let watch = LinkWatch::open()?;
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        if let Err(error) = listen(watch, &engine) {
            tracing::error!(%error, "interfaces are no longer watched: restart bpfd");
        }
    })?;
    Ok(())
}

/// One look serves all events that come before it begins.
fn listen(mut watch: LinkWatch, engine: &EngineHandle<HostKernel>) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    loop {
        poll(&mut [PollFd::new(&watch.as_fd(), PollFlags::IN)], None)?;
        while watch.next_event()?.is_some() {}
        if asked.swap(true, Ordering::AcqRel) {
            continue;
        }
        let mark = asked.clone();
        let look = move |engine: &mut crate::engine::Engine<HostKernel>| {
            mark.store(false, Ordering::Release);
            match engine.settle() {
                Ok(Repaired { recovered: _, steps, failures }) => {
                    steps.iter().for_each(|step| tracing::info!(%step, "an interface changed"));
                    failures.iter().for_each(|failure| tracing::warn!(%failure, "an interface changed"));
                }
                Err(error) => tracing::warn!(%error, "cannot look at what changed"),
            }
        };
        if !engine.post(look) {
            return Ok(());
        }
    }
}
