//! BPF bytecode as bytes: reads objects (ELF, BTF, programs, globals) and makes what the kernel loads (relocated
//! programs, dispatchers, fused chains). It must never do I/O, read a clock or call the kernel.

pub mod actions;
pub mod assembler;
pub mod btf;
pub mod btf_build;
mod btf_ext;
mod btf_type;
mod bytes;
pub mod chain_record;
pub mod contents;
pub mod dispatch_config;
pub mod dispatcher;
pub mod elf;
pub mod externs;
pub mod functions;
pub mod fuse;
pub mod globals;
pub mod guard;
pub mod insn;
pub mod inspect;
pub mod kconfig;
mod kernel_btf;
pub mod kind;
pub mod license;
pub mod line_info;
pub mod load_type;
pub mod maps;
pub mod names;
pub mod normalise;
pub mod order;
pub mod relocate;
pub mod run_config;
pub mod select;
mod variables;
pub mod verifier_log;
pub mod verifier_words;
