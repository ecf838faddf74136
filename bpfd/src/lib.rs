//! The daemon: wires what `bpfd-core` decides to the kernel, the database, the registry and the socket.
//!
//! Only the engine's thread changes state, pins, hooks and links (`engine`); the verbs (`service`) ask the policy
//! and wait; `rpc` turns messages into requests for them.

pub mod audit;
pub mod boot;
pub mod causes;
pub mod daemon;
pub mod engine;
pub mod etc;
pub mod execute;
pub mod fail_points;
pub mod images;
pub mod kernel;
pub mod layout;
pub mod load_log;
pub mod maps;
pub mod objects;
pub mod owned;
pub mod policy_files;
pub mod programs;
pub mod progress;
pub mod queue;
pub mod reads;
pub mod registries;
pub mod repair;
pub mod reserve;
pub mod reserved;
pub mod rpc;
pub mod service;
pub mod source;
pub mod store;
pub mod systemd;
pub mod trust;
pub mod turns;
pub mod waiter;
pub mod watch;
pub mod worker;
