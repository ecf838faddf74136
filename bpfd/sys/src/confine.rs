//! What a worker gives up before it looks at foreign bytes: capabilities, files, sockets, system calls. Called in the
//! worker itself, first thing, while it has one thread; nothing of it can be taken back.
//!
//! Landlock is relied on for files alone, which it has covered since it exists (5.13). What later kernels taught it, seccomp
//! keeps on every kernel: no TCP port opened (6.7), no file cut by its path (6.2), no signal to another process and no abstract
//! socket (6.12), no device's ioctl (6.10: a device is a file that cannot be opened). So a worker on 6.1 may do what one on
//! 6.12 may do; where both forbid something, both do.
use crate::caps::{self, Cap};
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
    path_beneath_rules,
};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// How much of the landlock rules this kernel keeps. seccomp is always complete, or confinement fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlock {
    /// All.
    Full,
    /// Some: the kernel is older than 6.12. Files are kept; seccomp keeps the rest (see the module).
    Partial,
    /// None: not built in, or off. What file permissions let everybody read, a fetcher can read; a parser has no call for it.
    Absent,
}

/// Confinement failed; the worker must end.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Rules would not hold for the other threads.
    #[error("cannot confine a process with {0} threads; it must have one")]
    Threads(usize),
    /// The threads cannot be counted.
    #[error("cannot count the threads")]
    Count(#[source] io::Error),
    /// Capabilities cannot be given up.
    #[error("cannot give up capabilities")]
    Capabilities(#[source] io::Error),
    /// Landlock refused its rules.
    #[error("cannot set landlock rules")]
    Landlock(#[from] landlock::RulesetError),
    /// seccomp refused its filter, or there is none for this architecture.
    #[error("cannot set a system call filter")]
    Seccomp(#[source] seccompiler::Error),
}

impl From<seccompiler::Error> for ConfineError {
    fn from(error: seccompiler::Error) -> Self {
        Self::Seccomp(error)
    }
}

impl From<seccompiler::BackendError> for ConfineError {
    fn from(error: seccompiler::BackendError) -> Self {
        Self::Seccomp(error.into())
    }
}

/// For the reader of foreign ELF files: memory, the channel, reading of descriptors that came over it. No file, no
/// socket, no process, no thread, no executable memory: any other system call kills.
pub fn parser() -> Result<Landlock, ConfineError> {
    only_one_thread()?;
    caps::drop_all().map_err(ConfineError::Capabilities)?;
    let landlock = no_files_no_tcp()?;
    allow_only(computing()?)?;
    Ok(landlock)
}

/// For the look-up of bpf objects by id: as [`parser`], with CAP_SYS_ADMIN kept and bpf(2) allowed for the look-ups,
/// the walks over ids and the infos alone.
pub fn idlookup() -> Result<Landlock, ConfineError> {
    only_one_thread()?;
    caps::keep_only(&[Cap::SysAdmin]).map_err(ConfineError::Capabilities)?;
    let landlock = no_files_no_tcp()?;
    let mut rules = computing()?;
    // GET_NEXT_ID and GET_FD_BY_ID of programs, maps, BTF and links; GET_INFO_BY_FD (enum bpf_cmd).
    let commands = [11, 12, 13, 14, 15, 19, 23, 30, 31];
    rules.insert(libc::SYS_bpf, commands.into_iter().map(|command| equal(0, command)).collect::<Result<_, _>>()?);
    // `object_kind` reads what a descriptor is.
    rules.insert(libc::SYS_readlinkat, Vec::new());
    allow_only(rules)?;
    Ok(landlock)
}

/// For the download of images: TCP and UDP connections made from here, the files in `readable` (directories with all below;
/// those that do not exist are left out), and regular files in the directory `into`, made and removed. No other file, no port
/// of its choice, no listening, no unix socket that reaches another, no other process or program, no signal to one, no
/// namespace, none of the calls that change the system: those fail with `EPERM`. Threads may be started afterwards.
///
/// What remains: a UDP socket that has sent something receives on the port that the kernel chose for it.
pub fn fetcher(readable: &[&Path], into: Option<BorrowedFd<'_>>) -> Result<Landlock, ConfineError> {
    only_one_thread()?;
    caps::drop_all().map_err(ConfineError::Capabilities)?;
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::ReadFile | AccessFs::ReadDir))?;
    let files = AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::ReadFile | AccessFs::WriteFile;
    let rules = match into {
        Some(directory) => rules.add_rule(PathBeneath::new(directory, files))?,
        None => rules,
    };
    let landlock = enforced(rules.restrict_self()?.ruleset);
    no_second_syscall_table()?;
    // glibc falls back to clone(2), whose flags can be seen, on ENOSYS only.
    deny([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)?;
    deny(system_changing()?, libc::EPERM)?;
    deny(reaching_out()?, libc::EPERM)?;
    Ok(landlock)
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// What computing in memory takes, and talking over a channel that is there already.
fn computing() -> Result<Rules, ConfineError> {
    let always = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_pread64,
        libc::SYS_lseek,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_ppoll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let mut rules: Rules = always.into_iter().map(|call| (call, Vec::new())).collect();
    let exec = number(libc::PROT_EXEC);
    rules.insert(libc::SYS_mmap, vec![masked(2, exec, 0)?]);
    rules.insert(libc::SYS_mprotect, vec![masked(2, exec, 0)?]);
    // abort(3), as a panic's last resort.
    rules.insert(libc::SYS_tgkill, vec![equal(0, u64::from(std::process::id()))?]);
    let owners = OWNER_OF_SIGNALS.into_iter().map(|command| unlike(1, number(command)));
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(owners.collect::<Result<_, _>>()?)?]);
    // The standard library's and glibc's look at an open file.
    let empty_path = number(libc::AT_EMPTY_PATH);
    rules.insert(libc::SYS_statx, vec![masked(2, empty_path, empty_path)?]);
    rules.insert(libc::SYS_newfstatat, vec![masked(3, empty_path, empty_path)?]);
    Ok(rules)
}

/// fcntl(2) that sends signals of one's choice to a process of one's choice (F_SETSIG, F_SETOWN_EX: asm-generic/fcntl.h).
const OWNER_OF_SIGNALS: [i32; 3] = [libc::F_SETOWN, 10, 15];

/// The size of `struct sockaddr_nl` (linux/netlink.h).
const NETLINK_ADDRESS: u64 = 12;

/// Calls that reach beyond connections made from here, on kernels whose Landlock does not see them.
fn reaching_out() -> Result<Rules, ConfineError> {
    let always = [
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_truncate,
        libc::SYS_kill,
        libc::SYS_tkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_pidfd_send_signal,
        libc::SYS_setpriority,
        libc::SYS_sched_setaffinity,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setscheduler,
        libc::SYS_shmget,
        libc::SYS_msgget,
        libc::SYS_semget,
        libc::SYS_mq_open,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
    ];
    let mut rules: Rules = always.into_iter().map(|call| (call, Vec::new())).collect();
    // TCP, UDP and the netlink of routes, which name resolution asks for the addresses of this host.
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let no_family = families.into_iter().map(|family| unlike(0, number(family))).collect::<Result<_, _>>()?;
    let protocols = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];
    let no_protocol = protocols.into_iter().map(|protocol| unlike(2, number(protocol))).collect::<Result<_, _>>()?;
    let no_route = vec![like(0, number(libc::AF_NETLINK))?, unlike(2, number(libc::NETLINK_ROUTE))?];
    let sockets = [no_family, no_protocol, no_route].into_iter().map(SeccompRule::new);
    rules.insert(libc::SYS_socket, sockets.collect::<Result<_, _>>()?);
    // seccomp does not see the family of a socket. But IPv4 and IPv6 refuse an address as short as the one that glibc binds
    // its netlink socket to (net/ipv4/af_inet.c, `inet_bind`).
    rules.insert(libc::SYS_bind, vec![SeccompRule::new(vec![unlike(2, NETLINK_ADDRESS)?])?]);
    // A datagram socket of a pair can be connected to any other unix socket (`SOCK_RAW` makes one too: net/unix/af_unix.c).
    let kinds = [libc::SOCK_DGRAM, libc::SOCK_RAW].into_iter().map(|kind| masked(1, 0xf, number(kind)));
    rules.insert(libc::SYS_socketpair, kinds.collect::<Result<_, _>>()?);
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![unlike(0, own)?])?]);
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![unlike(0, 0)?])?]);
    let owners = OWNER_OF_SIGNALS.into_iter().map(|command| equal(1, number(command)));
    rules.insert(libc::SYS_fcntl, owners.collect::<Result<_, _>>()?);
    // The same by ioctl(2): FIOSETOWN, SIOCSPGRP (asm-generic/sockios.h).
    rules.insert(libc::SYS_ioctl, vec![equal(1, 0x8901)?, equal(1, 0x8902)?]);
    Ok(rules)
}

/// Calls a downloader has no use for and an intruder has.
fn system_changing() -> Result<Rules, ConfineError> {
    let always = [
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_kcmp,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_syslog,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_personality,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_fanotify_init,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_iopl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_ioperm,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_modify_ldt,
    ];
    let mut rules: Rules = always.into_iter().map(|call| (call, Vec::new())).collect();
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let namespaces = namespaces.into_iter().map(|flag| masked(0, number(flag), number(flag)));
    // A thread, or nothing: a process would outlive the worker that is killed.
    let process = masked(0, number(libc::CLONE_THREAD), 0);
    rules.insert(libc::SYS_clone, namespaces.chain([process]).collect::<Result<_, _>>()?);
    Ok(rules)
}

fn only_one_thread() -> Result<(), ConfineError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(ConfineError::Count)?.count();
    if threads == 1 { Ok(()) } else { Err(ConfineError::Threads(threads)) }
}

fn no_files_no_tcp() -> Result<Landlock, ConfineError> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    Ok(enforced(rules.restrict_self()?.ruleset))
}

fn enforced(status: RulesetStatus) -> Landlock {
    match status {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Absent,
    }
}

fn equal(argument: u8, value: u64) -> Result<SeccompRule, ConfineError> {
    Ok(SeccompRule::new(vec![like(argument, value)?])?)
}

fn like(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn unlike(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, ConfineError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// A flag word as seccomp sees it; they are all positive.
fn number(flag: i32) -> u64 {
    u64::from(flag.cast_unsigned())
}

fn allow_only(rules: Rules) -> Result<(), ConfineError> {
    apply(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

fn deny(rules: Rules, errno: i32) -> Result<(), ConfineError> {
    apply(rules, SeccompAction::Allow, SeccompAction::Errno(errno.cast_unsigned()))
}

/// Other architectures' calls always kill: seccompiler puts that check first.
fn apply(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<(), ConfineError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter: BpfProgram = SeccompFilter::new(rules, otherwise, matched, architecture)?.try_into()?;
    Ok(seccompiler::apply_filter(&filter)?)
}

/// x86-64 kernels may have a second table of the same calls, for x32, from 0x40000000 on, which a list of denied
/// numbers does not see. Nothing of ours uses it: any such call kills.
fn no_second_syscall_table() -> Result<(), ConfineError> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    // Classic BPF (linux/bpf_common.h, linux/filter.h): load the number; jump if it is that large; return.
    let instruction = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    let program = [
        instruction(0x20, 0, 0, 0),
        instruction(0x35, 0, 1, 0x4000_0000),
        instruction(0x06, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        instruction(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    Ok(seccompiler::apply_filter(&program)?)
}
