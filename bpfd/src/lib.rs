//! The daemon: wires what `bpfd-core` decides to the kernel, the database, the registry and the socket.
//!
//! Only the engine's thread changes state, pins, hooks and links (`engine`); RPC handlers (`rpc`) parse, ask the policy, and wait.

pub mod audit;
pub mod causes;
pub mod daemon;
pub mod engine;
pub mod etc;
pub mod execute;
pub mod fail_points;
pub mod images;
pub mod kernel;
pub mod layout;
pub mod load;
pub mod load_log;
pub mod objects;
pub mod pages;
pub mod progress;
pub mod registries;
pub mod repair;
pub mod rpc;
pub mod source;
pub mod store;
pub mod trust;
pub mod waiter;
pub mod watch;
pub mod worker;
