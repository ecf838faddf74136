//! The way to the daemon: which socket, and when to connect. The only file here that knows how calls travel.
//! A verb that needs no daemon never connects.

use std::path::PathBuf;
use std::time::Duration;

pub(crate) use bpfd_client::{Client, ClientError, request_id};

use crate::args::Global;
use crate::error::Failure;
use crate::output::Printer;

/// How long a socket may take to appear: `bpfd &` and `bpfctl` on the next line of a script.
const SOCKET_WAIT: Duration = Duration::from_secs(1);

/// One run of bpfctl.
pub(crate) struct Session {
    socket: PathBuf,
    /// Where results and messages go.
    pub(crate) printer: Printer,
}

impl Session {
    pub(crate) fn new(global: Global) -> Self {
        let Global { socket, output, quiet, no_headers, color: _, timeout: _ } = global;
        // An empty variable is as good as none: that is what `BPFD_SOCKET= bpfctl` means in a shell.
        let from_environment = || std::env::var_os("BPFD_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
        let socket = socket.or_else(from_environment).unwrap_or_else(|| PathBuf::from(bpfd_proto::DEFAULT_SOCKET));
        Self { socket, printer: Printer::new(output, quiet, no_headers) }
    }

    /// What asks, and prints nothing.
    pub(crate) fn at(socket: Option<PathBuf>) -> Self {
        Self::new(Global { socket, quiet: true, ..Default::default() })
    }

    /// Connects to the daemon.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.socket, SOCKET_WAIT).await?)
    }

    /// Connects to a daemon that may be starting.
    pub(crate) async fn client_within(&self, limit: Duration) -> Result<Client, Failure> {
        Ok(Client::connect(&self.socket, limit).await?)
    }

    /// Connects to the daemon if it runs now.
    pub(crate) async fn client_if_up(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.socket, Duration::ZERO).await?)
    }
}
