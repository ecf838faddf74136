//! Who has dumps, watches and readers of records under way, within limits; and who reads which buffer, as one can. Pure data behind a
//! lock. Must never wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::MapFailure;

/// Streams of one user: a few terminals and an agent.
const OF_ONE: usize = 8;
/// Streams of all users but root. Each keeps one map open, and a watch keeps at most half a MiB.
const OF_OTHERS: usize = 32;
/// Streams of root.
const OF_ROOT: usize = 64;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Streams(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By user id.
    live: BTreeMap<u32, usize>,
    /// Who reads the buffer, by the kernel's number of the map.
    readers: BTreeMap<u32, String>,
}

/// A stream under way, until it is dropped.
#[derive(Debug)]
pub struct Live {
    streams: Streams,
    uid: u32,
}

/// The right to read a buffer, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    streams: Streams,
    map: u32,
}

impl Streams {
    /// One more stream of this user.
    pub fn begin(&self, uid: u32) -> Result<Live, MapFailure> {
        let mut table = self.table();
        let own = table.live.get(&uid).copied().unwrap_or_default();
        let others: usize = table.live.iter().filter(|(uid, _)| **uid != 0).map(|(_, live)| live).sum();
        let (limit, of) = if uid == 0 { (OF_ROOT, "root") } else { (OF_ONE, "your user id") };
        if own >= limit {
            return Err(MapFailure::Streams { limit, of });
        }
        if uid != 0 && others >= OF_OTHERS {
            return Err(MapFailure::Streams { limit: OF_OTHERS, of: "users other than root" });
        }
        table.live.insert(uid, own + 1);
        Ok(Live { streams: self.clone(), uid })
    }

    /// The map of this number is read by `who` from now on, and by nobody else.
    pub fn claim(&self, map: u32, who: String) -> Result<Claim, MapFailure> {
        let mut table = self.table();
        if let Some(reader) = table.readers.get(&map) {
            return Err(MapFailure::Read(reader.clone()));
        }
        table.readers.insert(map, who);
        Ok(Claim { streams: self.clone(), map })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut table = self.streams.table();
        match table.live.get(&self.uid).copied().unwrap_or_default() {
            0 | 1 => drop(table.live.remove(&self.uid)),
            more => drop(table.live.insert(self.uid, more - 1)),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.streams.table().readers.remove(&self.map);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_streams_of_others_or_of_root() {
        let streams = Streams::default();
        let mut live: Vec<Live> = (0..OF_ONE).map(|_| streams.begin(7).unwrap()).collect();
        assert!(streams.begin(7).is_err());
        for uid in 8..11 {
            live.extend((0..OF_ONE).map(|_| streams.begin(uid).unwrap()));
        }
        let why = streams.begin(11).unwrap_err().to_string();
        assert_eq!(why, "32 dumps, watches and readers of users other than root are under way");
        drop(streams.begin(0).unwrap());
        live.pop();
        drop(streams.begin(11).unwrap());
    }

    #[test]
    fn a_buffer_has_one_reader() {
        let streams = Streams::default();
        let claim = streams.claim(5, "root".to_owned()).unwrap();
        drop(streams.claim(6, "u7".to_owned()).unwrap());
        assert_eq!(streams.claim(5, "u7".to_owned()).unwrap_err().to_string(), "root reads this buffer");
        drop(claim);
        drop(streams.claim(5, "u7".to_owned()).unwrap());
    }
}
