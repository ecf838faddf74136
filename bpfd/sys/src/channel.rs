//! Messages with descriptors between the daemon and its workers, over SOCK_SEQPACKET. The other end may be taken over
//! by hostile bytes: all sizes are bounded before memory is taken, and cut descriptor lists are errors.
//!
//! A message travels as frames of 64 KiB, because an unprivileged sender cannot raise its buffer beyond
//! net.core.wmem_max (208 KiB). The first frame begins with the whole length, four bytes, little-endian, and carries
//! the descriptors. One sender and one receiver an end: two threads that send at once would mix their frames.
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// The longest message, as the longest RPC message.
pub const MESSAGE_LIMIT: usize = 1 << 20;
/// The most descriptors with one message.
pub const FDS_LIMIT: usize = 8;

const FRAME: usize = 64 << 10;
const LENGTH: usize = 4;

/// One end of a channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What was received.
#[derive(Debug, Default)]
pub struct Message {
    /// At most [`MESSAGE_LIMIT`].
    pub bytes: Vec<u8>,
    /// At most [`FDS_LIMIT`], close-on-exec. What they are is for the receiver to check.
    pub fds: Vec<OwnedFd>,
}

/// A message did not get through. After any of these the channel is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other end is gone.
    #[error("the other end of the channel is closed")]
    Closed,
    /// No answer, or no room to send, until the deadline.
    #[error("no answer before the deadline")]
    Deadline,
    /// Over [`MESSAGE_LIMIT`].
    #[error("a message of {0} bytes is longer than {MESSAGE_LIMIT}")]
    TooLong(usize),
    /// Over [`FDS_LIMIT`].
    #[error("{0} descriptors are more than {FDS_LIMIT}")]
    TooManyFds(usize),
    /// The other end sent more descriptors than there is room for, or this process may not open more.
    #[error("file descriptors of a message were cut off")]
    FdsCut,
    /// The other end does not keep to the frames.
    #[error("a frame is malformed")]
    Malformed,
    /// Anything else.
    #[error("the channel to the worker failed")]
    Io(#[source] io::Error),
}

impl From<rustix::io::Errno> for ChannelError {
    fn from(errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => Self::Closed,
            other => Self::Io(other.into()),
        }
    }
}

impl Channel {
    /// Two connected ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Takes a descriptor: `EINVAL` unless it is a unix SOCK_SEQPACKET socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if socket_domain(&fd)? != AddressFamily::UNIX || socket_type(&fd)? != SocketType::SEQPACKET {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        rustix::fs::fcntl_setfl(&fd, rustix::fs::fcntl_getfl(&fd)? | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one message; waits for room until `deadline`.
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<(), ChannelError> {
        let whole = u32::try_from(message.len()).ok().filter(|_| message.len() <= MESSAGE_LIMIT);
        let whole = whole.ok_or(ChannelError::TooLong(message.len()))?.to_le_bytes();
        let (first, rest) = message.split_at(message.len().min(FRAME - LENGTH));
        self.send_frame(&[IoSlice::new(&whole), IoSlice::new(first)], fds, deadline)?;
        rest.chunks(FRAME).try_for_each(|frame| self.send_frame(&[IoSlice::new(frame)], &[], deadline))
    }

    /// Receives one message; waits for all of it until `deadline`.
    pub fn receive(&self, deadline: Instant) -> Result<Message, ChannelError> {
        let mut buffer = vec![0; FRAME];
        let mut fds = Vec::new();
        let first = self.receive_frame(&mut buffer, &mut fds, deadline)?;
        let (whole, first) = first.split_first_chunk::<LENGTH>().ok_or(ChannelError::Malformed)?;
        let whole = usize::try_from(u32::from_le_bytes(*whole)).unwrap_or(usize::MAX);
        if whole > MESSAGE_LIMIT {
            return Err(ChannelError::TooLong(whole));
        }
        let mut bytes = Vec::with_capacity(whole);
        bytes.extend(first);
        while bytes.len() < whole {
            let mut none = Vec::new();
            bytes.extend(self.receive_frame(&mut buffer, &mut none, deadline)?);
            if !none.is_empty() {
                return Err(ChannelError::Malformed);
            }
        }
        if bytes.len() == whole { Ok(Message { bytes, fds }) } else { Err(ChannelError::Malformed) }
    }

    fn send_frame(&self, frame: &[IoSlice<'_>], fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<(), ChannelError> {
        if fds.len() > FDS_LIMIT {
            return Err(ChannelError::TooManyFds(fds.len()));
        }
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_LIMIT))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(ChannelError::TooManyFds(fds.len()));
            }
            match rustix::net::sendmsg(&self.0, frame, &mut control, SendFlags::NOSIGNAL) {
                Ok(_sent) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::OUT, deadline)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive_frame<'a>(
        &self,
        buffer: &'a mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Instant,
    ) -> Result<&'a [u8], ChannelError> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_LIMIT))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut frame = [IoSliceMut::new(buffer)];
            match rustix::net::recvmsg(&self.0, &mut frame, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => {
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = message {
                            fds.extend(rights);
                        }
                    }
                    if received.flags.contains(ReturnFlags::CTRUNC) {
                        return Err(ChannelError::FdsCut);
                    }
                    // The kernel may find room for one more in what alignment leaves.
                    if fds.len() > FDS_LIMIT {
                        return Err(ChannelError::TooManyFds(fds.len()));
                    }
                    if received.flags.contains(ReturnFlags::TRUNC) {
                        return Err(ChannelError::Malformed);
                    }
                    // We never send an empty frame, so this is the end.
                    return match received.bytes {
                        0 => Err(ChannelError::Closed),
                        length => buffer.get(..length).ok_or(ChannelError::Malformed),
                    };
                }
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> Result<(), ChannelError> {
        let left = deadline.checked_duration_since(Instant::now()).ok_or(ChannelError::Deadline)?;
        let left = Timespec::try_from(left).map_err(|error| ChannelError::Io(io::Error::other(error)))?;
        match rustix::event::poll(&mut [PollFd::new(&self.0, flags)], Some(&left)) {
            // Time is up at the next turn, if it is.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_message_and_its_descriptors_arrive_whole() {
        let (one, other) = Channel::pair().unwrap();
        let sealed = crate::seal::Sealed::from_bytes(b"object").unwrap();
        one.send(b"load", &[sealed.as_fd(), sealed.as_fd()], soon()).unwrap();
        let Message { bytes, mut fds } = other.receive(soon()).unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (&b"load"[..], 2));
        let mut text = String::new();
        File::from(fds.pop().unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "object");
        assert!(rustix::io::fcntl_getfd(&fds[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn every_length_up_to_the_limit_arrives_and_one_more_does_not() {
        let (one, other) = Channel::pair().unwrap();
        for length in [0, 1, FRAME - LENGTH - 1, FRAME - LENGTH, FRAME - LENGTH + 1, MESSAGE_LIMIT] {
            let message: Vec<u8> = (0..=250).cycle().take(length).collect();
            let received = std::thread::scope(|scope| {
                scope.spawn(|| one.send(&message, &[], soon()).unwrap());
                other.receive(soon()).unwrap()
            });
            assert!(received.bytes == message, "{length}");
        }
        let refused = one.send(&vec![0; MESSAGE_LIMIT + 1], &[], soon()).unwrap_err();
        assert!(matches!(refused, ChannelError::TooLong(length) if length == MESSAGE_LIMIT + 1));
    }

    #[test]
    fn too_many_descriptors_are_refused_at_both_ends() {
        let (one, other) = Channel::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let many = [file.as_fd(); 20];
        assert!(matches!(one.send(b"x", &many[..9], soon()), Err(ChannelError::TooManyFds(9))));
        let receive = |count: usize| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&many[..count])));
            rustix::net::sendmsg(&one.0, &[IoSlice::new(&[0, 0, 0, 0])], &mut control, SendFlags::empty()).unwrap();
            other.receive(soon())
        };
        assert_eq!(receive(8).unwrap().fds.len(), 8);
        assert!(matches!(receive(9), Err(ChannelError::TooManyFds(9) | ChannelError::FdsCut)));
        assert!(matches!(receive(20), Err(ChannelError::FdsCut)));
    }

    #[test]
    fn frames_that_lie_are_refused() {
        let receive = |frames: &[&[u8]]| {
            let (one, other) = Channel::pair().unwrap();
            for frame in frames {
                rustix::net::send(&one.0, frame, SendFlags::empty()).unwrap();
            }
            other.receive(Instant::now()).unwrap_err()
        };
        assert!(matches!(receive(&[&[1, 0]]), ChannelError::Malformed));
        assert!(matches!(receive(&[&[1, 0, 0, 0, 7, 7]]), ChannelError::Malformed));
        assert!(matches!(receive(&[&[2, 0, 0, 0, 7], &[7, 7]]), ChannelError::Malformed));
        assert!(matches!(receive(&[&[0xff; 4]]), ChannelError::TooLong(_)));
        assert!(matches!(receive(&[&vec![0; FRAME + 1]]), ChannelError::Malformed));
        assert!(matches!(receive(&[&[2, 0, 0, 0, 7]]), ChannelError::Deadline | ChannelError::Closed));
    }

    #[test]
    fn a_closed_end_and_a_passed_deadline_are_told_apart() {
        let (one, other) = Channel::pair().unwrap();
        assert!(matches!(one.receive(Instant::now() + Duration::from_millis(5)), Err(ChannelError::Deadline)));
        drop(other);
        assert!(matches!(one.receive(soon()), Err(ChannelError::Closed)));
        assert!(matches!(one.send(b"x", &[], soon()), Err(ChannelError::Closed)));
    }

    #[test]
    fn a_file_is_no_channel() {
        assert!(Channel::from_fd(File::open("/dev/null").unwrap().into()).is_err());
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Channel::from_fd(stream.into()).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
