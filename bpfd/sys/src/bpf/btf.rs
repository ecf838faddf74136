//! BTF objects: loading our own, reading those in the kernel. What the bytes mean is not this crate's business.
use super::info::object_info;
use super::load::load_then_ask_why;
use super::pin::{ObjectKind, expect_kind};
use super::{Address, BtfId, Command, LoadError, bpf_fd, length, text};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Far above any real BTF (a distribution kernel's is about 6 MiB), far below what would hurt us.
const BTF_LIMIT: u32 = 64 << 20;

#[repr(C)]
#[derive(Default)]
struct BtfLoadAttr {
    btf: Address,
    log_buf: Address,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
    log_true_size: u32,
}

/// `struct bpf_btf_info`.
#[repr(C)]
#[derive(Default)]
struct RawBtfInfo {
    btf: Address,
    btf_size: u32,
    id: u32,
    name: Address,
    name_len: u32,
    kernel_btf: u32,
}

/// What the kernel says of a BTF object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BtfInfo {
    /// Its number.
    pub id: BtfId,
    /// Bytes of the whole.
    pub size: u32,
    /// `vmlinux` or a module's name; empty for a program's.
    pub name: String,
    /// It is the kernel's or a module's own.
    pub kernel: bool,
}

/// Loads BTF; the log says what is wrong with it.
pub fn btf_load(btf: &[u8]) -> Result<OwnedFd, LoadError> {
    load_then_ask_why(|level, log| {
        let mut attr = BtfLoadAttr {
            btf: Address::of(btf),
            btf_size: length(btf)?,
            log_level: level,
            log_size: length(log)?,
            log_buf: Address::of_mut(log),
            log_true_size: 0,
        };
        // SAFETY: `BtfLoadAttr` is the command's prefix; both addresses are of slices that live past the call, with
        // their own lengths, and the kernel writes only into `log`.
        unsafe { bpf_fd(Command::BTF_LOAD, &mut attr) }
    })
}

/// Size, number and name of a BTF object.
pub fn btf_info(fd: BorrowedFd<'_>) -> io::Result<BtfInfo> {
    expect_kind(fd, ObjectKind::Btf)?;
    // Module names are shorter (`MODULE_NAME_LEN` is 64 - 8).
    let mut name = [0_u8; 64];
    let mut info = RawBtfInfo { name: Address::of_mut(&mut name), name_len: 64, ..RawBtfInfo::default() };
    // SAFETY: `RawBtfInfo` is the kernel's struct for a BTF descriptor; `name` outlives the call with its length.
    unsafe { object_info(fd, &mut info) }?;
    Ok(BtfInfo { id: BtfId(info.id), size: info.btf_size, name: text(&name), kernel: info.kernel_btf != 0 })
}

/// The bytes of a BTF object; `EFBIG` over 64 MiB.
pub fn btf_bytes(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let size = btf_info(fd)?.size;
    if size > BTF_LIMIT {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    let mut info = RawBtfInfo { btf: Address::of_mut(&mut bytes), btf_size: size, ..RawBtfInfo::default() };
    // SAFETY: `RawBtfInfo` is the kernel's struct for a BTF descriptor; `bytes` outlives the call with its length.
    unsafe { object_info(fd, &mut info) }?;
    Ok(bytes)
}
