//! Images that must not be loaded, and registries that lie: each refused with a clear error, and nothing changed, the daemon's own
//! image store included.
#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not what they share")]

mod archives;
mod artifacts;
mod callers;
mod contents;
mod older;
mod registries;
mod revoked;
mod room;
mod world;
