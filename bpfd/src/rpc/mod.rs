//! The API on the sockets: who connects, and each version's codec between messages and the service's requests. Nothing is decided here.

mod connections;
mod intake;
mod peer;
mod server;
mod unit;
mod v1;

pub use peer::{PeerStream, group_id, principal, principal_of};
pub use server::{ServeError, serve};
