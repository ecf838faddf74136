//! Numbers of users and groups by their names, from whatever name services the host uses (nsswitch.conf(5)). They load foreign code and
//! may take as long as they like: for a process that can be ended, never for the daemon.
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Bytes that an entry may take: groups have all their members.
const ENTRY_MAX: usize = 16 << 20;

/// Most groups of one user that are told: `NGROUPS_MAX` of include/uapi/linux/limits.h.
const GROUPS_MAX: usize = 65_536;

/// The uid of a user; `None` if there is no such user.
pub fn user_id(name: &str) -> io::Result<Option<u32>> {
    Ok(user(&CString::new(name)?)?.map(|(uid, _)| uid))
}

/// The uid of a user, and all its groups, its own first.
pub fn member(name: &str) -> io::Result<Option<(u32, Vec<u32>)>> {
    let name = CString::new(name)?;
    let Some((uid, gid)) = user(&name)? else { return Ok(None) };
    let mut groups = vec![0; 64];
    loop {
        let mut number = libc::c_int::try_from(groups.len()).map_err(io::Error::other)?;
        // SAFETY: `name` is NUL-terminated, and `groups` has room for as many as `number` says.
        let all = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut number) };
        let found = usize::try_from(number).unwrap_or_default();
        if all >= 0 {
            groups.truncate(found);
            return Ok(Some((uid, groups)));
        }
        if groups.len() >= GROUPS_MAX {
            return Err(io::Error::other("the user is in more groups than the kernel allows"));
        }
        groups.resize(found.max(groups.len() * 2).min(GROUPS_MAX), 0);
    }
}

fn user(name: &CStr) -> io::Result<Option<(u32, u32)>> {
    looked_up(|buffer| {
        let (mut entry, mut found) = (MaybeUninit::<libc::passwd>::uninit(), ptr::null_mut());
        let (at, length) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: `name` is NUL-terminated; the entry and the buffer of that length live until after the call.
        let error = unsafe { libc::getpwnam_r(name.as_ptr(), entry.as_mut_ptr(), at, length, &raw mut found) };
        // SAFETY: a result that is not null points to the entry, which the call has filled then (getpwnam(3)).
        let entry = (error == 0 && !found.is_null()).then(|| unsafe { entry.assume_init() });
        (error, entry.map(|entry| (entry.pw_uid, entry.pw_gid)))
    })
}

/// The gid of a group; `None` if there is no such group.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    looked_up(|buffer| {
        let (mut entry, mut found) = (MaybeUninit::<libc::group>::uninit(), ptr::null_mut());
        let (at, length) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: `name` is NUL-terminated; the entry and the buffer of that length live until after the call.
        let error = unsafe { libc::getgrnam_r(name.as_ptr(), entry.as_mut_ptr(), at, length, &raw mut found) };
        // SAFETY: a result that is not null points to the entry, which the call has filled then (getgrnam(3)).
        let id = (error == 0 && !found.is_null()).then(|| unsafe { entry.assume_init() }.gr_gid);
        (error, id)
    })
}

/// Asks with more and more room. `ENOENT` and `ESRCH` are other words for "no such name" (getpwnam(3), ERRORS).
fn looked_up<T>(ask: impl Fn(&mut [u8]) -> (i32, Option<T>)) -> io::Result<Option<T>> {
    let mut buffer = vec![0; 4096];
    loop {
        match ask(&mut buffer) {
            (0, found) => return Ok(found),
            (libc::ENOENT | libc::ESRCH, _) => return Ok(None),
            (libc::ERANGE, _) if buffer.len() < ENTRY_MAX => buffer.resize(buffer.len() * 4, 0),
            (error, _) => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_a_name_with_a_nul_is_nobody() {
        assert_eq!((user_id("root").unwrap(), group_id("root").unwrap()), (Some(0), Some(0)));
        assert_eq!((user_id("no-such-user-4711").unwrap(), group_id("no-such-group-4711").unwrap()), (None, None));
        let (uid, groups) = member("root").unwrap().unwrap();
        assert!(uid == 0 && groups.contains(&0));
        assert!(member("no-such-user-4711").unwrap().is_none());
        assert!(user_id("a\0b").is_err());
    }
}
