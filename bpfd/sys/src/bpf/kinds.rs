//! The kernel's open enumerations as newtypes with constants (include/uapi/linux/bpf.h): a value from a newer kernel
//! survives a round trip instead of becoming an error.

macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$constant_doc:meta])* $constant:ident = $value:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        #[expect(missing_docs, reason = "the names are the kernel's")]
        impl $name {
            $($(#[$constant_doc])* pub const $constant: Self = Self($value);)*
        }
    };
}

open_enum! {
    /// `enum bpf_prog_type`.
    ProgramType {
        UNSPEC = 0, SOCKET_FILTER = 1, KPROBE = 2, SCHED_CLS = 3, SCHED_ACT = 4, TRACEPOINT = 5, XDP = 6,
        PERF_EVENT = 7, CGROUP_SKB = 8, CGROUP_SOCK = 9, LWT_IN = 10, LWT_OUT = 11, LWT_XMIT = 12, SOCK_OPS = 13,
        SK_SKB = 14, CGROUP_DEVICE = 15, SK_MSG = 16, RAW_TRACEPOINT = 17, CGROUP_SOCK_ADDR = 18, LWT_SEG6LOCAL = 19,
        LIRC_MODE2 = 20, SK_REUSEPORT = 21, FLOW_DISSECTOR = 22, CGROUP_SYSCTL = 23, RAW_TRACEPOINT_WRITABLE = 24,
        CGROUP_SOCKOPT = 25, TRACING = 26, STRUCT_OPS = 27, EXT = 28, LSM = 29, SK_LOOKUP = 30, SYSCALL = 31,
        NETFILTER = 32,
    }
}

open_enum! {
    /// `enum bpf_attach_type`, as far as bpfd names them. `NONE` is what programs without one carry (the kernel has no
    /// such name: 0 is also `BPF_CGROUP_INET_INGRESS`).
    AttachType {
        NONE = 0, TRACE_RAW_TP = 23, TRACE_FENTRY = 24, TRACE_FEXIT = 25, MODIFY_RETURN = 26, LSM_MAC = 27,
        TRACE_ITER = 28, XDP_DEVMAP = 33, XDP_CPUMAP = 35, SK_LOOKUP = 36, XDP = 37, PERF_EVENT = 41,
        TCX_INGRESS = 46, TCX_EGRESS = 47,
    }
}

open_enum! {
    /// `enum bpf_map_type`.
    MapType {
        UNSPEC = 0, HASH = 1, ARRAY = 2, PROG_ARRAY = 3, PERF_EVENT_ARRAY = 4, PERCPU_HASH = 5, PERCPU_ARRAY = 6,
        STACK_TRACE = 7, CGROUP_ARRAY = 8, LRU_HASH = 9, LRU_PERCPU_HASH = 10, LPM_TRIE = 11, ARRAY_OF_MAPS = 12,
        HASH_OF_MAPS = 13, DEVMAP = 14, SOCKMAP = 15, CPUMAP = 16, XSKMAP = 17, SOCKHASH = 18, CGROUP_STORAGE = 19,
        REUSEPORT_SOCKARRAY = 20, PERCPU_CGROUP_STORAGE = 21, QUEUE = 22, STACK = 23, SK_STORAGE = 24,
        DEVMAP_HASH = 25, STRUCT_OPS = 26, RINGBUF = 27, INODE_STORAGE = 28, TASK_STORAGE = 29, BLOOM_FILTER = 30,
        USER_RINGBUF = 31, CGRP_STORAGE = 32, ARENA = 33,
    }
}

/// `BPF_F_SLEEPABLE`: the program may sleep.
pub const F_SLEEPABLE: u32 = 1 << 4;
/// `BPF_F_XDP_HAS_FRAGS`: the program handles packets of several buffers (Linux 5.18).
pub const F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// `BPF_F_XDP_DEV_BOUND_ONLY`: the program is bound to one device (Linux 6.3).
pub const F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;

/// `BPF_F_NO_PREALLOC`: hash elements are allocated when used; required for LPM tries.
pub const F_NO_PREALLOC: u32 = 1;
/// `BPF_F_RDONLY`: user space may only read.
pub const F_RDONLY: u32 = 1 << 3;
/// `BPF_F_RDONLY_PROG`: programs may only read.
pub const F_RDONLY_PROG: u32 = 1 << 7;
/// `BPF_F_MMAPABLE`: user space may map the array.
pub const F_MMAPABLE: u32 = 1 << 10;
