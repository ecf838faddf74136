//! Makes a gRPC channel over a unix socket, with an error that says what is wrong with the socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bpfd_proto::status::Refusal;
use bpfd_proto::v1::ErrorReason;
use bpfd_proto::{SOCKET_NAME, VIEW_SOCKET_NAME};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::ClientError;

/// Between two attempts: short beside the time in which a daemon starts.
const AGAIN: Duration = Duration::from_millis(20);

pub(crate) async fn channel(path: &Path, wait: Duration) -> Result<Channel, ClientError> {
    let (first, path) = open(path, wait).await.map_err(|error| refusal(path, &error))?;
    // The stream that proved that somebody listens is the first connection; later ones are made anew.
    let mut first = Some(first);
    let connector = tower::service_fn(move |_: Uri| {
        let first = first.take();
        let path = path.clone();
        async move { stream(first, path).await.map(TokioIo::new) }
    });
    // The name only fills the :authority header: a unix socket has none.
    let endpoint = Endpoint::from_static("http://bpfd");
    endpoint.connect_with_connector(connector).await.map_err(ClientError::transport)
}

async fn stream(first: Option<UnixStream>, path: PathBuf) -> io::Result<UnixStream> {
    match first {
        Some(stream) => Ok(stream),
        None => UnixStream::connect(path).await,
    }
}

/// Opens the socket; the one beside it for those who may look, if the caller may not open this one.
async fn open(path: &Path, wait: Duration) -> io::Result<(UnixStream, PathBuf)> {
    match first_stream(path, wait).await {
        Ok(stream) => Ok((stream, path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.ends_with(SOCKET_NAME) => {
            let beside = path.with_file_name(VIEW_SOCKET_NAME);
            // Without that one, what is wrong with the first is what the caller must know.
            UnixStream::connect(&beside).await.map(|stream| (stream, beside)).map_err(|_| error)
        }
        Err(error) => Err(error),
    }
}

async fn first_stream(path: &Path, wait: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + wait;
    loop {
        match UnixStream::connect(path).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    && Instant::now() < deadline =>
            {
                sleep(AGAIN).await;
            }
            result => return result,
        }
    }
}

fn refusal(path: &Path, error: &io::Error) -> ClientError {
    let what = format!("cannot reach bpfd at `{}`", path.display());
    let refusal = match error.kind() {
        io::ErrorKind::NotFound => Refusal::new(ErrorReason::DaemonUnreachable, what)
            .cause("there is no such socket")
            .hint("start the daemon with `systemctl start bpfd` or `sudo bpfd`, or name its socket with --socket"),
        io::ErrorKind::ConnectionRefused => Refusal::new(ErrorReason::DaemonUnreachable, what)
            .cause("the socket exists, but no process listens on it")
            .hint("start the daemon with `systemctl start bpfd` or `sudo bpfd`"),
        io::ErrorKind::PermissionDenied => Refusal::new(ErrorReason::SocketDenied, what)
            .cause("you may not open the socket")
            .hint("run as root, or as a member of the group `bpfd`; members of `bpfd-view` may look"),
        _ => Refusal::new(ErrorReason::DaemonUnreachable, what).cause(error.to_string()),
    };
    ClientError::from(refusal)
}
