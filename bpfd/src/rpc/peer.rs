//! Who is at the other end of a connection: what the kernel said of the socket when it was accepted. Users are named as /etc/passwd does,
//! for people to read: decisions compare numbers. What a client says of itself is never asked.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bpfd_core::policy::{Credentials, Principal, Unit};
use bpfd_core::state::Owner;
use bpfd_sys::peer::Peer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::unit;

/// Bytes read of /etc/passwd or /etc/group: larger user databases are served by NSS, which root's daemon does not ask.
const DATABASE_MAX: u64 = 4 << 20;

/// A connection with its principal.
#[derive(Debug)]
pub struct PeerStream {
    stream: UnixStream,
    principal: Arc<Principal>,
}

impl PeerStream {
    /// Asks the kernel who connected (unix(7), SO_PEERCRED and SO_PEERGROUPS).
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        use std::os::fd::AsFd;
        let Peer { uid, gid, pid, groups, pidfd } = Peer::of(stream.as_fd())?;
        let groups: BTreeSet<u32> = groups.into_iter().chain([gid]).collect();
        let user = names(Path::new("/etc/passwd"), &[uid].into())?.pop();
        let credentials = Credentials { groups: Some(groups), unit: unit::of_process(pidfd.as_ref()) };
        Ok(Self { stream, principal: Arc::new(Principal { uid, user, credentials, pid }) })
    }

    /// The user id of the caller.
    pub fn uid(&self) -> u32 {
        self.principal.uid
    }
}

/// An owner as the user database has it now, by name if it had one; `None` if there is no such user any more.
pub fn principal_of(owner: &Owner) -> io::Result<Option<Principal>> {
    let (users, groups) = (database(Path::new("/etc/passwd"))?, database(Path::new("/etc/group"))?);
    Ok(owner_in(owner, &users, &groups))
}

fn owner_in(owner: &Owner, users: &str, groups: &str) -> Option<Principal> {
    let (uid, gid, user) = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else { return None };
        let (uid, gid): (u32, u32) = (uid.parse().ok()?, gid.parse().ok()?);
        let is_it = owner.user.as_deref().map_or(uid == owner.uid, |user| user == *name);
        is_it.then(|| (uid, gid, (*name).to_owned()))
    })?;
    let groups = groups.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, id, members] = fields.as_slice() else { return None };
        let member = members.split(',').any(|member| member == user);
        id.parse().ok().filter(|_| member)
    });
    let credentials = Credentials { groups: Some(groups.chain([gid]).collect()), unit: Unit::Unknown };
    Some(Principal { uid, user: Some(user), credentials, pid: 0 })
}

/// The id of a group; `None` if there is no such group.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    let text = database(Path::new("/etc/group"))?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    Ok(line.and_then(|line| line.split(':').nth(2)?.parse().ok()))
}

/// Its text. What is not UTF-8, such as a name of somebody in Latin-1, is one line's matter and keeps nobody else out.
fn database(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(DATABASE_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Names of these ids in a file of `name:password:id:…` lines (passwd(5), group(5)).
fn names(path: &Path, ids: &BTreeSet<u32>) -> io::Result<Vec<String>> {
    let text = database(path)?;
    let named = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        ids.contains(&id.parse().ok()?).then(|| name.to_owned())
    });
    Ok(named.collect())
}

/// Who sent a request.
pub fn principal<M>(request: &Request<M>) -> Result<Principal, Status> {
    let known = request.extensions().get::<Arc<Principal>>().map(|principal| principal.as_ref().clone());
    known.ok_or_else(|| Status::unauthenticated("the connection has no peer credentials"))
}

impl Connected for PeerStream {
    type ConnectInfo = Arc<Principal>;

    fn connect_info(&self) -> Arc<Principal> {
        self.principal.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_get_their_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "root:x:0:\nbpfd:x:990:a,b\nbroken\n:x:1:\nview:x:991:\n").unwrap();
        assert_eq!(names(file.path(), &[0, 990, 5].into()).unwrap(), ["root", "bpfd"]);
        assert_eq!(names(Path::new("/nowhere"), &[0].into()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_owner_is_who_has_its_name_now() {
        let users = "root:x:0:0::/:/bin/sh\ncni:x:990:991::/:/bin/sh\nnew:x:7:7::/:/bin/sh\n";
        let groups = "bpfd:x:815:a,cni\ncni:x:991:\nother:x:7:\n";
        let found = |uid, user: Option<&str>| {
            let owner = Owner { uid, user: user.map(str::to_owned) };
            owner_in(&owner, users, groups).map(|it| (it.uid, it.credentials.groups.unwrap_or_default()))
        };
        assert_eq!(found(7, Some("cni")), Some((990, [815, 991].into())));
        assert_eq!(found(7, None), Some((7, [7].into())));
        assert_eq!(found(990, Some("gone")), None);
    }

    #[test]
    fn bytes_that_are_not_utf_8_keep_nobody_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let latin = b"root:x:0:0:root:/root:/bin/sh\njose:x:7:7:Jos\xe9:/:/bin/sh\nbob:x:8:8::/:/bin/sh\n";
        std::fs::write(file.path(), latin).unwrap();
        assert_eq!(names(file.path(), &[0, 7, 8].into()).unwrap(), ["root", "jose", "bob"]);
        // Cut at the limit, in the middle of a character.
        let max = usize::try_from(DATABASE_MAX).unwrap();
        let mut long = b"root:x:0:0:".to_vec();
        long.resize(max - 1, b'.');
        long.extend("é:/:/bin/sh\n".bytes());
        std::fs::write(file.path(), &long).unwrap();
        assert_eq!(names(file.path(), &[0].into()).unwrap(), ["root"]);
    }
}
