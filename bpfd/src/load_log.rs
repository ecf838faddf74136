//! The verifier's logs of the last refused loads, for `GetLoadLog`: a status has room for a summary only.
//!
//! In memory and few: the log belongs to the caller's next question, not to the host's state.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bpfd_core::kernel::StepError;
use ebpf::verifier_log::Rejection;
use uuid::Uuid;

/// Logs kept; the oldest goes first.
const KEPT: usize = 32;
/// Bytes of one log kept: its end, where the verifier says why.
const LOG_MAX: usize = 1 << 20;
/// Lines of a log that say why, if it has no message that bpfd can read.
const TAIL: usize = 2;

/// A program that the verifier rejected, for its caller.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's verifier rejected `{program}`")]
pub struct Rejected {
    /// Which program.
    pub program: String,
    /// Whether it was to run in a chain: alone, the verifier has accepted it.
    pub in_chain: bool,
    /// The last lines of the log.
    pub tail: String,
    /// Names the whole log.
    pub log_id: String,
    /// What the log says.
    pub rejection: Box<Rejection>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct LoadLogs {
    logs: Mutex<VecDeque<(String, u32, String)>>,
}

impl LoadLogs {
    /// Keeps the log of a verifier's refusal, for the caller who is told of it; any other error comes back.
    pub fn rejected(&self, uid: u32, error: StepError) -> Result<Rejected, StepError> {
        let StepError::Verifier { program, link, log, rejection } = error else { return Err(error) };
        let tail: Vec<&str> = log.lines().rev().filter(|line| !line.trim().is_empty()).take(TAIL).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("; ");
        Ok(Rejected { program, in_chain: link.is_some(), tail, log_id: self.keep(uid, &log), rejection })
    }

    /// Keeps a log of a caller, and names it.
    fn keep(&self, uid: u32, log: &str) -> String {
        let id = Uuid::new_v4().as_simple().to_string();
        let start = (log.len().saturating_sub(LOG_MAX)..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
        let end = log.get(start..).unwrap_or_default().to_owned();
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if logs.len() == KEPT {
            logs.pop_front();
        }
        logs.push_back((id.clone(), uid, end));
        id
    }

    /// The log of that name: to its caller and to root.
    pub fn read(&self, uid: u32, id: &str) -> Option<String> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.iter().find(|(name, owner, _)| name == id && (uid == 0 || uid == *owner)).map(|(_, _, log)| log.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_for_its_caller_and_root() {
        let logs = LoadLogs::default();
        let id = logs.keep(1000, "R1 !read_ok");
        assert_eq!(logs.read(1000, &id).as_deref(), Some("R1 !read_ok"));
        assert_eq!(logs.read(0, &id).as_deref(), Some("R1 !read_ok"));
        assert_eq!(logs.read(1001, &id), None);
    }

    #[test]
    fn the_end_of_a_long_log_is_kept_and_old_logs_go() {
        let logs = LoadLogs::default();
        let long = format!("{}end", "ä".repeat(LOG_MAX));
        let first = logs.keep(0, &long);
        let kept = logs.read(0, &first).unwrap();
        assert!(kept.len() <= LOG_MAX && kept.ends_with("end"));
        for _ in 0..KEPT {
            logs.keep(0, "x");
        }
        assert_eq!(logs.read(0, &first), None);
    }
}
