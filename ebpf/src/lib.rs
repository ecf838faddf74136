//! BPF bytecode as bytes: reads objects (ELF, BTF, programs, globals) and makes what the kernel loads (relocated
//! programs, dispatchers, fused chains). It must never do I/O, read a clock or call the kernel.

pub mod actions;
mod btf;
pub mod btf_build;
mod bytes;
pub mod chain_record;
pub mod dispatch_config;
pub mod dispatcher;
mod elf;
pub mod fuse;
pub mod guard;
pub mod insn;
pub mod kind;
pub mod license;
pub mod load_type;
pub mod order;
pub mod relocate;
