//! Records of ring buffers and perf buffers, by `aya`, from the pinned map. Reading takes records out of the buffer. It must never wait:
//! a descriptor says when there is something.
//!
//! A perf event array gets a buffer for each CPU here, in the places of the map, and loses them when this is dropped.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{Map, MapData, MapError, PerfEventArray, RingBuf};
use bpfd_sys::bpf::possible_cpus;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;

/// Pages of one CPU's perf buffer, a power of two: 32 KiB on most machines, times the CPUs.
const PERF_PAGES: usize = 8;

/// See the module.
pub struct RecordReader {
    buffer: Buffer,
    /// Readable when one of its buffers is.
    ready: OwnedFd,
}

enum Buffer {
    Ring(RingBuf<MapData>),
    Perf { cpus: Vec<PerfEventArrayBuffer<MapData>>, next: usize },
}

/// See [`RecordReader::ready`].
#[derive(Debug)]
pub struct Ready(OwnedFd);

impl Ready {
    /// Returns when there may be a record, at the latest after so long.
    pub fn wait(&self, within: Duration) {
        let within = Timespec::try_from(within).ok();
        // An error is as good as the time: what is there is looked at.
        if let Err(error) = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], within.as_ref()) {
            tracing::debug!(%error, "cannot wait for records");
        }
    }
}

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The map.
    #[error("cannot read the buffer")]
    Map(#[from] MapError),
    /// A CPU's perf buffer.
    #[error("cannot open the perf buffer of CPU {cpu}")]
    Perf {
        /// Its number.
        cpu: u32,
        /// Why.
        source: aya::maps::perf::PerfBufferError,
    },
    /// Something else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for RecordError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// What one turn took.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Taken {
    /// Records that the kernel dropped, as a perf buffer was full.
    pub lost: u64,
    /// Whether the buffer may have more.
    pub more: bool,
}

impl RecordReader {
    /// Of a map that is one of these.
    pub fn open(map: OwnedFd) -> Result<Self, RecordError> {
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = Map::from_map_data(MapData::from_fd(map)?)?;
        let buffer = match data {
            data @ Map::RingBuf(_) => Buffer::Ring(RingBuf::try_from(data)?),
            data => Buffer::Perf { cpus: perf(PerfEventArray::try_from(data)?)?, next: 0 },
        };
        let watch = |fd: BorrowedFd<'_>, number| {
            epoll::add(&ready, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
        };
        match &buffer {
            Buffer::Ring(ring) => watch(ring.as_fd(), 0)?,
            Buffer::Perf { cpus, next: _ } => {
                (0..).zip(cpus).try_for_each(|(number, cpu)| watch(cpu.as_fd(), number))?;
            }
        }
        Ok(Self { buffer, ready })
    }

    /// What says when there is a record, for another thread.
    pub fn ready(&self) -> Result<Ready, RecordError> {
        Ok(Ready(self.ready.try_clone()?))
    }

    /// Gives records to `sink` until that says that it has enough, or there are none.
    pub fn take(&mut self, mut sink: impl FnMut(&[u8]) -> ControlFlow<()>) -> Taken {
        match &mut self.buffer {
            Buffer::Ring(ring) => {
                while let Some(record) = ring.next() {
                    if sink(&record).is_break() {
                        return Taken { lost: 0, more: true };
                    }
                }
                Taken::default()
            }
            Buffer::Perf { cpus, next } => {
                let mut taken = Taken::default();
                // The next turn begins with another CPU: a busy one keeps none of the others waiting.
                let first = next.checked_rem(cpus.len()).unwrap_or_default();
                *next = first + 1;
                let (before, after) = cpus.split_at_mut(first);
                for cpu in after.iter_mut().chain(before) {
                    if take_of(cpu, &mut taken, &mut sink).is_break() {
                        taken.more = true;
                        break;
                    }
                }
                taken
            }
        }
    }
}

fn take_of(
    cpu: &mut PerfEventArrayBuffer<MapData>,
    taken: &mut Taken,
    sink: &mut impl FnMut(&[u8]) -> ControlFlow<()>,
) -> ControlFlow<()> {
    cpu.try_fold((), |(), event| match event {
        PerfEvent::Sample { head, tail: [] } => sink(head),
        // The end of the buffer was in its midst.
        PerfEvent::Sample { head, tail } => sink(&[head, tail].concat()),
        PerfEvent::Lost { count } => {
            taken.lost = taken.lost.saturating_add(count);
            ControlFlow::Continue(())
        }
    })
}

/// A buffer for each CPU that is there.
fn perf(mut map: PerfEventArray<MapData>) -> Result<Vec<PerfEventArrayBuffer<MapData>>, RecordError> {
    use aya::maps::perf::PerfBufferError::OpenError;
    let mut cpus = Vec::new();
    for cpu in 0..u32::try_from(possible_cpus()?).map_err(io::Error::other)? {
        match map.open(cpu, Some(PERF_PAGES)) {
            Ok(buffer) => cpus.push(buffer),
            // Offline, or possible and not there.
            Err(OpenError { io_error }) if io_error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
            Err(source) => return Err(RecordError::Perf { cpu, source }),
        }
    }
    Ok(cpus)
}
