//! Has the engine look because of what was heard, one look at a time.
//!
//! It must never wait for one.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{EngineHandle, News};
use crate::kernel::HostKernel;
use crate::repair::Repaired;

/// What was heard and not dealt with yet.
#[derive(Debug, Default)]
pub(super) struct Heard {
    news: News,
    /// The engine deals with news, or is about to.
    looks: bool,
}

/// One look. Dropped, done or not, it makes room for the next.
struct Looking(Arc<Mutex<Heard>>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).looks = false;
    }
}

/// Has the engine look. One look serves all events that come before it begins; those that come later wait until it is done.
pub(super) fn look(engine: &EngineHandle<HostKernel>, pending: &Arc<Mutex<Heard>>, news: News) {
    {
        let mut heard = pending.lock().unwrap_or_else(PoisonError::into_inner);
        heard.news.and(news);
        if heard.looks || heard.news.is_empty() {
            return;
        }
        heard.looks = true;
    }
    let (heard, looking) = (pending.clone(), Looking(pending.clone()));
    let news = move || std::mem::take(&mut heard.lock().unwrap_or_else(PoisonError::into_inner).news);
    let done = move |engine: &EngineHandle<HostKernel>, settled| {
        match settled {
            Ok(Repaired { recovered: _, steps, failures, .. }) => {
                steps.iter().for_each(|step| tracing::info!(%step, "an interface changed"));
                failures.iter().for_each(|failure| tracing::warn!(%failure, "cannot handle an interface event"));
            }
            Err(error) => tracing::warn!(%error, "cannot observe the interfaces after an event"),
        }
        let pending = looking.0.clone();
        drop(looking);
        look(engine, &pending, News::default());
    };
    engine.settle(news, Box::new(done));
}
