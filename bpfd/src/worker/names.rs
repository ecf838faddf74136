//! Users and groups that the policy names, looked up by a worker: name services load foreign code, ask over a network and may hang. No
//! request waits for this, only the reading of a policy.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use bpfd_policy::accounts::{Accounts, Names};
use bpfd_policy::rule::AccountId;
use bpfd_sys::caps;
use bpfd_sys::channel::Channel;
use bpfd_sys::nss;
use bpfd_sys::worker::{Identity, Limits, Spec, Stderr, Worker};
use serde::{Deserialize, Serialize};

use super::{WorkerError, Workers, answer_calls, call};

pub(super) const KIND: &str = "names";

/// Of one name. Local files answer in a millisecond, a directory in its own network in tens of them.
const LIMIT: Duration = Duration::from_secs(2);
/// Of all names of a policy: a start waits for that.
const WHOLE: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    User(String),
    Group(String),
    Member(String),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Is(u32),
    Member { uid: u32, groups: BTreeSet<u32> },
    Absent,
    Failed(String),
}

/// What the names mean. Those that nobody answers for in time are unknown; the others are not kept waiting for them.
pub fn look_up(workers: &Workers, names: &Names) -> Accounts {
    let mut service = Service { workers, running: None, deadline: Instant::now() + WHOLE };
    let Names { users, groups } = names;
    Accounts {
        users: users.iter().map(|name| (name.clone(), service.id(name, Request::User(name.clone())))).collect(),
        groups: groups.iter().map(|name| (name.clone(), service.id(name, Request::Group(name.clone())))).collect(),
    }
}

/// A user and the groups that it is in now; `None` if there is no such user, or nobody says.
pub fn member(workers: &Workers, name: &str) -> Option<(u32, BTreeSet<u32>)> {
    let mut service = Service { workers, running: None, deadline: Instant::now() + WHOLE };
    match service.ask(&Request::Member(name.to_owned())) {
        Ok(Answer::Member { uid, groups }) => Some((uid, groups)),
        Ok(Answer::Is(_) | Answer::Absent) => None,
        Ok(Answer::Failed(why)) => {
            tracing::warn!(name, why, "no name service could say which user this is");
            None
        }
        Err(error) => {
            tracing::warn!(name, %error, "no name service said which user this is");
            None
        }
    }
}

struct Service<'a> {
    workers: &'a Workers,
    /// The identity is its own until it ends.
    running: Option<(Worker, super::Identity)>,
    deadline: Instant,
}

impl Service<'_> {
    fn id(&mut self, name: &str, request: Request) -> AccountId {
        match self.ask(&request) {
            Ok(Answer::Is(id)) => AccountId::Is(id),
            Ok(Answer::Absent | Answer::Member { .. }) => AccountId::Absent,
            Ok(Answer::Failed(why)) => {
                tracing::warn!(name, why, "no name service could say which user or group this is");
                AccountId::Unknown
            }
            Err(error) => {
                tracing::warn!(name, %error, "no name service said which user or group this is");
                AccountId::Unknown
            }
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, WorkerError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WorkerError::Start(io::ErrorKind::TimedOut.into()));
        }
        let (mut worker, identity) = match self.running.take() {
            Some(running) => running,
            None => self.start().map_err(WorkerError::Start)?,
        };
        // After an error the worker is gone, and the next name has another one.
        let (answer, _) = call(&mut worker, request, &[], LIMIT.min(left))?;
        self.running = Some((worker, identity));
        Ok(answer)
    }

    fn start(&self) -> io::Result<(Worker, super::Identity)> {
        let identity = self.workers.identity()?;
        let limits = Limits {
            address_space: 1 << 30,
            cpu_seconds: 10,
            open_files: 64,
            file_size: 0,
            wall: Some(WHOLE + Duration::from_secs(5)),
        };
        let spec =
            Spec { kind: KIND.to_owned(), limits, identity: Identity::Own(identity.ids()), stderr: Stderr::Keep };
        Ok((self.workers.spawn(&spec)?, identity))
    }
}

/// The worker's side. What name services need is theirs to know: it is only kept from being anybody.
pub(super) fn serve(channel: &Channel) -> Result<(), String> {
    caps::drop_all().map_err(|error| error.to_string())?;
    answer_calls(channel, |request, _fds| {
        let found = match request {
            Request::User(name) => nss::user_id(&name).map(|id| id.map(Answer::Is)),
            Request::Group(name) => nss::group_id(&name).map(|id| id.map(Answer::Is)),
            Request::Member(name) => nss::member(&name)
                .map(|found| found.map(|(uid, groups)| Answer::Member { uid, groups: groups.into_iter().collect() })),
        };
        let answer = found.map(|answer| answer.unwrap_or(Answer::Absent));
        (answer.unwrap_or_else(|error| Answer::Failed(error.to_string())), Vec::new())
    })
}
