//! Maps: made, read and written. Buffer sizes come from the kernel's own description of the map, never from a caller,
//! because the kernel copies as many bytes as the map says.
use super::{Address, BtfTypeId, Command, MapInfo, MapType, bpf, bpf_fd, map_info, object_name, raw};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The largest value, all CPUs' together, that is read in one piece.
const VALUE_LIMIT: usize = 64 << 20;

/// A map to make. [`MapCreate::new`] leaves everything optional empty.
#[derive(Clone, Copy, Debug)]
pub struct MapCreate<'a> {
    /// Its kind.
    pub kind: MapType,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// The most elements.
    pub max_entries: u32,
    /// `BPF_F_*` map flags.
    pub flags: u32,
    /// Cut at 15 bytes.
    pub name: &'a str,
    /// For maps of maps: what the inner ones look like.
    pub inner: Option<BorrowedFd<'a>>,
    /// Types of key and value.
    pub btf: Option<MapBtf<'a>>,
    /// Meaning depends on the kind (bloom filter: hash functions; arena: address).
    pub extra: u64,
}

impl<'a> MapCreate<'a> {
    /// A map without flags, name and BTF.
    pub fn new(kind: MapType, key_size: u32, value_size: u32, max_entries: u32) -> Self {
        Self { kind, key_size, value_size, max_entries, flags: 0, name: "", inner: None, btf: None, extra: 0 }
    }
}

/// Types of a map's key and value.
#[derive(Clone, Copy, Debug)]
pub struct MapBtf<'a> {
    /// From [`super::btf_load`].
    pub fd: BorrowedFd<'a>,
    /// The key's type.
    pub key: BtfTypeId,
    /// The value's type.
    pub value: BtfTypeId,
}

/// What an update expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Anything (`BPF_ANY`).
    Any,
    /// No element with this key (`BPF_NOEXIST`); `EEXIST` otherwise.
    Create,
    /// An element with this key (`BPF_EXIST`); `ENOENT` otherwise.
    Replace,
}

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
    btf_vmlinux_value_type_id: u32,
    map_extra: u64,
}

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: Address,
    /// The value, or where the next key goes.
    value: Address,
    flags: u64,
}

/// An open map and the sizes of its elements.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    key_size: usize,
    /// Bytes of one value; of one CPU's, with `cpus`.
    value_size: usize,
    cpus: Option<usize>,
}

impl Map {
    /// Makes a map.
    pub fn create(map: &MapCreate<'_>) -> io::Result<Self> {
        let MapCreate { kind, key_size, value_size, max_entries, flags, name, inner, btf, extra } = *map;
        let mut attr = CreateAttr {
            map_type: kind.0,
            key_size,
            value_size,
            max_entries,
            map_flags: flags,
            inner_map_fd: inner.map_or(0, raw),
            map_name: object_name(name),
            map_extra: extra,
            ..CreateAttr::default()
        };
        if let Some(MapBtf { fd, key, value }) = btf {
            (attr.btf_fd, attr.btf_key_type_id, attr.btf_value_type_id) = (raw(fd), key.0, value.0);
        }
        // SAFETY: `CreateAttr` is the command's prefix and holds no address; the command returns a descriptor.
        Self::from_fd(unsafe { bpf_fd(Command::MAP_CREATE, &mut attr) }?)
    }

    /// Takes a descriptor, which must be a map's: `EINVAL` if the kernel calls it something else.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let MapInfo { kind, key_size, value_size, .. } = map_info(fd.as_fd())?;
        let size = |bytes| usize::try_from(bytes).map_err(io::Error::other);
        let (key_size, mut value_size) = (size(key_size)?, size(value_size)?);
        let cpus = if is_per_cpu(kind) { Some(possible_cpus()?) } else { None };
        if let Some(cpus) = cpus {
            value_size = value_size.next_multiple_of(8);
            value_size.checked_mul(cpus).ok_or_else(too_large)?;
        }
        let map = Self { fd, key_size, value_size, cpus };
        if map.whole_value() > VALUE_LIMIT { Err(too_large()) } else { Ok(map) }
    }

    /// What the kernel says of it.
    pub fn info(&self) -> io::Result<MapInfo> {
        map_info(self.fd.as_fd())
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// How many CPUs' values one element holds; `None` for maps with one value for all.
    pub fn cpus(&self) -> Option<usize> {
        self.cpus
    }

    /// The value of `key`. Per-CPU maps give all CPUs' values in a row, each padded to a multiple of 8 bytes.
    pub fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.whole_value()];
        let mut attr = self.element(key)?;
        attr.value = Address::of_mut(&mut value);
        // SAFETY: `ElementAttr` is the command's prefix; `key` has the map's key size and `value` all bytes the kernel
        // copies for this map (`bpf_map_value_size`); both outlive the call.
        match unsafe { bpf(Command::MAP_LOOKUP_ELEM, &mut attr) } {
            Ok(_zero) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a value, of exactly the length [`Map::lookup`] gives; `EINVAL` otherwise.
    pub fn update(&self, key: &[u8], value: &[u8], update: Update) -> io::Result<()> {
        if value.len() != self.whole_value() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut attr = self.element(key)?;
        attr.value = Address::of(value);
        attr.flags = match update {
            Update::Any => 0,
            Update::Create => 1,
            Update::Replace => 2,
        };
        // SAFETY: `ElementAttr` is the command's prefix; `key` has the map's key size and `value` all bytes the kernel
        // reads for this map; both outlive the call.
        unsafe { bpf(Command::MAP_UPDATE_ELEM, &mut attr) }.map(|_zero| ())
    }

    /// Puts a program or a map into a map of such.
    pub fn update_fd(&self, key: &[u8], value: BorrowedFd<'_>) -> io::Result<()> {
        self.update(key, &raw(value).to_ne_bytes(), Update::Any)
    }

    /// Removes an element; false if there was none. `EINVAL` for arrays.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        let mut attr = self.element(key)?;
        // SAFETY: `ElementAttr` is the command's prefix; `key` has the map's key size and outlives the call.
        match unsafe { bpf(Command::MAP_DELETE_ELEM, &mut attr) } {
            Ok(_zero) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The key after `key`, the first for `None`; `None` at the end. A key that is gone starts anew (hash maps), so a
    /// walk over a changing map needs a limit.
    pub fn next_key(&self, key: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        let mut next = vec![0; self.key_size];
        let mut attr = match key {
            Some(key) => self.element(key)?,
            None => ElementAttr { map_fd: raw(self.fd.as_fd()), ..ElementAttr::default() },
        };
        attr.value = Address::of_mut(&mut next);
        // SAFETY: `ElementAttr` is the command's prefix; `key` is null or has the map's key size, `next` has it too;
        // both outlive the call.
        match unsafe { bpf(Command::MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_zero) => Ok(Some(next)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// No more writes from user space, for good. `EBUSY` while it is mapped writable or frozen already.
    pub fn freeze(&self) -> io::Result<()> {
        let mut attr = raw(self.fd.as_fd());
        // SAFETY: the command reads `map_fd`, the union's first word, and nothing else.
        unsafe { bpf(Command::MAP_FREEZE, &mut attr) }.map(|_zero| ())
    }

    /// All bytes that the kernel copies for one element.
    fn whole_value(&self) -> usize {
        self.value_size.saturating_mul(self.cpus.unwrap_or(1))
    }

    fn element(&self, key: &[u8]) -> io::Result<ElementAttr> {
        if key.len() != self.key_size {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(ElementAttr { map_fd: raw(self.fd.as_fd()), key: Address::of(key), ..ElementAttr::default() })
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_per_cpu(kind: MapType) -> bool {
    [MapType::PERCPU_HASH, MapType::PERCPU_ARRAY, MapType::LRU_PERCPU_HASH, MapType::PERCPU_CGROUP_STORAGE]
        .contains(&kind)
}

fn too_large() -> io::Error {
    io::Error::from_raw_os_error(libc::EFBIG)
}

/// The kernel's `num_possible_cpus()`: how many values an element of a per-CPU map has.
pub fn possible_cpus() -> io::Result<usize> {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    count_cpus(&list).ok_or_else(|| io::Error::other(format!("not a list of CPUs: `{}`", list.trim())))
}

/// Counts a list such as `0-3,8` (Documentation/admin-guide/kernel-parameters.rst, "cpu lists").
fn count_cpus(list: &str) -> Option<usize> {
    list.trim().split(',').try_fold(0_usize, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_fields_are_where_the_kernel_reads_them() {
        assert_eq!(offset_of!(CreateAttr, map_name), 28);
        assert_eq!(offset_of!(CreateAttr, map_extra), 64);
        assert_eq!(offset_of!(ElementAttr, value), 16);
        assert_eq!(size_of::<ElementAttr>(), 32);
    }

    #[test]
    fn cpus_are_counted_and_nonsense_is_refused() {
        assert_eq!(count_cpus("0\n"), Some(1));
        assert_eq!(count_cpus("0-1\n"), Some(2));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        for nonsense in ["", "3-1", "a", "0-", "0,,1", "0-18446744073709551615"] {
            assert_eq!(count_cpus(nonsense), None, "{nonsense}");
        }
    }
}
