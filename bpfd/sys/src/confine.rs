//! What a worker gives up before it looks at foreign bytes: capabilities, files, sockets, system calls. Called in the
//! worker itself, first thing, while it has one thread; nothing of it can be taken back.
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
    /// Some: the kernel is older than the rules (files since 5.13, TCP since 6.7, signals and sockets since 6.12).
    Partial,
    /// None: not built in, or off.
    Absent,
}

/// Confinement failed; the worker must end.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Rules would not hold for the other threads.
    #[error("{0} threads are running, not one")]
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

/// For the download of images: internet sockets, the files in `readable` (directories with all below; those that do not
/// exist are left out), and regular files in the directory `into`, made and removed. No other file, no listening, no
/// unix socket, no new program, no namespace, none of the calls that change the system: those fail with `EPERM`.
/// Threads may be started afterwards.
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
        libc::SYS_fcntl,
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
        libc::SYS_tgkill,
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
    // The standard library's and glibc's look at an open file.
    let empty_path = number(libc::AT_EMPTY_PATH);
    rules.insert(libc::SYS_statx, vec![masked(2, empty_path, empty_path)?]);
    rules.insert(libc::SYS_newfstatat, vec![masked(3, empty_path, empty_path)?]);
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
    // Any family but IPv4, IPv6 and netlink, which name resolution asks for the addresses of this host.
    let not = |family| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, number(family));
    let families = vec![not(libc::AF_INET)?, not(libc::AF_INET6)?, not(libc::AF_NETLINK)?];
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(families)?]);
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
    rules.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
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
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    Ok(SeccompRule::new(vec![condition])?)
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
