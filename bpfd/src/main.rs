//! The daemon's entry: what it is asked to be (daemon or worker), and nothing else.

mod kernel;
mod worker;

fn main() {}
