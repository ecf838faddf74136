//! Random input at each door of a built daemon: the wire, objects, images, policy files, the database. Whatever comes, the daemon lives,
//! answers, and does not grow.
//!
//! Each input is made of a seed, the door's name and the input's number alone, so that one that did harm can be made again. What a daemon
//! makes of it depends on what came before it, too, and a database has the uids of its run. Must never judge what is refused and what is
//! taken: cases of their own do.

mod files;
mod images;
pub(crate) mod wire;

use std::fs;
use std::time::{Duration, Instant};

use bpfd_client::proto::v1 as pb;
use bpfd_client::{Client, ClientError};
use bpfd_tests::mutants::Random;
use tokio::time::timeout;

use crate::raw::LIMIT;
use crate::world::{Images, image};

/// Inputs after which all is looked at, unless each has a daemon of its own: it must answer others, and what was loaded goes.
const ROUND: u64 = 64;
/// The most memory that a daemon may have had, in MiB.
pub(crate) const PEAK: u64 = 128;

/// Where a run is made: an image that a signer signed, and one that nobody did.
pub(crate) fn host() -> Images {
    let images = Images::signed();
    images.publish("open/app", &image());
    images
}

/// What is put into one door.
trait Door {
    /// One input; whether it was answered in time, if only with an error.
    fn input(&mut self, images: &mut Images, random: &mut Random) -> Fate;

    /// Leaves all as it was before the first input.
    fn close(&mut self, _images: &mut Images) {}
}

/// What became of an input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It was carried out.
    Taken,
    /// An error was answered, or the connection ended.
    Refused,
    /// Nothing was answered in time.
    Hung,
}

type Open = fn(&mut Images) -> Box<dyn Door>;

/// The doors: how many inputs a short run has for each, and after how many all is looked at.
const DOORS: [(&str, Open, u64, u64); 7] = [
    ("wire_frames", wire::frames, 600, ROUND),
    ("wire_messages", wire::messages, 600, ROUND),
    ("objects", images::objects, 60, ROUND),
    ("images", images::images, 24, ROUND),
    ("policy", files::policy, 120, ROUND),
    ("registries", files::registries, 24, ROUND),
    ("state", files::state, 8, 1),
];

/// How long a run is.
#[derive(Clone, Debug)]
#[cfg_attr(test, expect(dead_code, reason = "a test's run is short"))]
#[cfg_attr(not(test), expect(dead_code, reason = "a run that somebody asks for is as long as is asked"))]
pub(crate) enum Length {
    /// A few seconds.
    Short,
    /// So long, at all doors together.
    Whole(Duration),
    /// One input of one door.
    One(String, u64),
}

/// What was done at one door.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) door: &'static str,
    pub(crate) inputs: u64,
    /// Inputs that were no error.
    pub(crate) taken: u64,
    pub(crate) slowest: Duration,
    /// The number of the slowest input.
    pub(crate) number: u64,
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) tallies: Vec<Tally>,
    /// In MiB, of whichever daemon had most.
    pub(crate) peak: u64,
    /// Each with the door and the number of the input.
    pub(crate) deaths: Vec<String>,
    pub(crate) hangs: Vec<String>,
    pub(crate) panics: Vec<String>,
}

impl Report {
    /// Nothing happened that must not.
    pub(crate) fn is_clean(&self) -> bool {
        self.deaths.is_empty() && self.hangs.is_empty() && self.panics.is_empty() && self.peak <= PEAK
    }

    fn look(&mut self, images: &Images, place: &str) {
        self.peak = self.peak.max(images.host.peak());
        if images.host.log().contains("panicked at") {
            self.panics.push(format!("{place}: {}", images.host.log()));
        }
    }
}

/// Puts random input into every door, one after the other; ends at the first harm.
pub(crate) fn run(images: &mut Images, seed: u64, length: &Length) -> Report {
    let mut report = Report::default();
    let doors = u32::try_from(DOORS.len()).unwrap();
    for (name, open, short, round) in DOORS {
        let first = match length {
            Length::One(door, number) if door == name => *number,
            Length::One(..) => continue,
            Length::Short | Length::Whole(_) => 0,
        };
        let mut door = open(images);
        let begun = Instant::now();
        let mut tally = Tally { door: name, inputs: first, taken: 0, slowest: Duration::ZERO, number: 0 };
        let more = |inputs: u64| match length {
            Length::Short => inputs < short,
            Length::Whole(whole) => begun.elapsed() * doors < *whole,
            Length::One(_, number) => inputs == *number,
        };
        while more(tally.inputs) && report.is_clean() {
            let place = format!("{name}:{} of seed {seed}", tally.inputs);
            let mut random = Random(mixed(seed, name, tally.inputs));
            let at = Instant::now();
            let fate = door.input(images, &mut random);
            let took = at.elapsed();
            if took > tally.slowest {
                (tally.slowest, tally.number) = (took, tally.inputs);
            }
            tally.inputs += 1;
            tally.taken += u64::from(fate == Fate::Taken);
            if !lives(images.host.pid()) {
                report.deaths.push(format!("{place}: {}", images.host.log()));
                break;
            }
            let looked = tally.inputs.is_multiple_of(round);
            if fate == Fate::Hung || (looked && tidied(images) == Fate::Hung) {
                report.hangs.push(place.clone());
            }
            if looked {
                report.look(images, &place);
            }
        }
        if report.deaths.is_empty() {
            report.look(images, name);
        }
        report.tallies.push(tally);
        if !report.is_clean() {
            return report;
        }
        door.close(images);
        if tidied(images) != Fate::Taken {
            report.hangs.push(format!("what {name} left cannot be taken away"));
            return report;
        }
    }
    report
}

/// Has the daemon take away all that inputs left; how it answered, which may be with an error where its files are spoilt.
fn tidied(images: &Images) -> Fate {
    answered(images, async |daemon: &mut Client| {
        let all = Some(pb::unload_request::Target::All(pb::AllApps {}));
        daemon.unload(pb::UnloadRequest { target: all, ..Default::default() }).await.map(drop)
    })
}

/// Asks as root, and waits for an answer, if only an error.
fn answered(images: &Images, question: impl AsyncFnOnce(&mut Client) -> Result<(), ClientError>) -> Fate {
    let answer = images.host.try_ask(async |daemon| Ok(timeout(LIMIT, question(daemon)).await));
    match answer {
        Ok(Err(_late)) => Fate::Hung,
        Ok(Ok(Ok(()))) => Fate::Taken,
        Ok(Ok(Err(_))) | Err(_) => Fate::Refused,
    }
}

/// Whether a process has not ended.
fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// A seed of one input (FNV-1a, which mixes well enough for inputs that need not be independent). Never 0.
fn mixed(seed: u64, name: &str, number: u64) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes()).chain(number.to_le_bytes());
    let mixed =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    mixed | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_input_at_every_door_does_no_harm() {
        let mut images = host();
        let report = run(&mut images, 7, &Length::Short);
        assert!(report.is_clean(), "{report:#?}");
        // A generator whose inputs all fare alike would prove nothing.
        for Tally { door, inputs, taken, .. } in &report.tallies {
            assert!((1..*inputs).contains(taken), "{door}: {report:#?}");
        }
    }

    #[test]
    fn a_daemon_that_died_is_noticed() {
        let mut images = host();
        let pid = images.host.pid();
        assert!(lives(pid));
        images.host.kill();
        assert!(!lives(pid));
        images.host.start();
    }

    #[test]
    fn an_input_is_made_again_of_its_numbers() {
        assert_eq!(mixed(7, "policy", 3), mixed(7, "policy", 3));
        assert_ne!(mixed(7, "policy", 3), mixed(7, "policy", 4));
        assert_ne!(mixed(7, "policy", 3), mixed(8, "policy", 3));
    }
}
