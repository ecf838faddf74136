//! The calling thread's capabilities: seen, set aside for a while, given up for good. Capabilities belong to a thread;
//! the process's other threads keep theirs.
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::fmt;
use std::io;
use std::marker::PhantomData;

/// The capabilities bpfd works with (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cap {
    /// CAP_BPF: load programs, make maps.
    Bpf,
    /// CAP_PERFMON: tracing programs, and the verifier's wider pointer rules.
    Perfmon,
    /// CAP_NET_ADMIN: attach to devices.
    NetAdmin,
    /// CAP_SYS_ADMIN: look objects up by id, enter namespaces, mount.
    SysAdmin,
}

impl Cap {
    fn set(self) -> CapabilitySet {
        match self {
            Self::Bpf => CapabilitySet::BPF,
            Self::Perfmon => CapabilitySet::PERFMON,
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::SysAdmin => CapabilitySet::SYS_ADMIN,
        }
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        })
    }
}

fn union(caps: &[Cap]) -> CapabilitySet {
    caps.iter().fold(CapabilitySet::empty(), |set, cap| set | cap.set())
}

/// The calling thread may use it now (its effective set).
pub fn has(cap: Cap) -> io::Result<bool> {
    Ok(capabilities(None)?.effective.contains(cap.set()))
}

/// Those of `caps` that the calling thread may not use now.
pub fn missing(caps: &[Cap]) -> io::Result<Vec<Cap>> {
    let effective = capabilities(None)?.effective;
    Ok(caps.iter().copied().filter(|cap| !effective.contains(cap.set())).collect())
}

/// Runs `work` with `caps` taken from the calling thread's effective set, and gives them back. They stay permitted, so
/// this asks what the kernel would say without them; it does not confine `work`. CAP_SYS_ADMIN counts as CAP_BPF and
/// CAP_PERFMON in the kernel (`bpf_capable`, `perfmon_capable`): name it too where that matters.
pub fn without<T>(caps: &[Cap], work: impl FnOnce() -> T) -> io::Result<T> {
    let before = capabilities(None)?;
    let effective = before.effective & !union(caps);
    set_capabilities(None, CapabilitySets { effective, ..before })?;
    let _restored = Restore { before, bound_to_thread: PhantomData };
    Ok(work())
}

/// Gives the effective set back, on panic too.
struct Restore {
    before: CapabilitySets,
    bound_to_thread: PhantomData<*const ()>,
}

impl Drop for Restore {
    /// What is permitted may be made effective again, so this cannot fail; a thread that lost its rights in silence
    /// would fail in strange ways later, so if it does, the process ends.
    fn drop(&mut self) {
        if set_capabilities(None, self.before).is_err() {
            std::process::abort();
        }
    }
}

/// Takes `caps` from the calling thread, for good.
pub fn drop_for_good(caps: &[Cap]) -> io::Result<()> {
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    let keep = !union(caps);
    let kept =
        CapabilitySets { effective: effective & keep, permitted: permitted & keep, inheritable: inheritable & keep };
    Ok(set_capabilities(None, kept)?)
}

/// Takes all capabilities but `caps` from the calling thread, for good.
pub fn keep_only(caps: &[Cap]) -> io::Result<()> {
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let keep = union(caps);
    rustix::thread::clear_ambient_capability_set()?;
    let inheritable = CapabilitySet::empty();
    Ok(set_capabilities(
        None,
        CapabilitySets { effective: effective & keep, permitted: permitted & keep, inheritable },
    )?)
}

/// Takes all capabilities from the calling thread, for good.
pub fn drop_all() -> io::Result<()> {
    keep_only(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Cap; 4] = [Cap::Bpf, Cap::Perfmon, Cap::NetAdmin, Cap::SysAdmin];

    #[test]
    fn what_is_set_aside_is_missing_and_then_back() {
        let before = missing(&ALL).unwrap();
        let inside = without(&[Cap::Perfmon, Cap::SysAdmin], || missing(&ALL).unwrap()).unwrap();
        assert!(inside.contains(&Cap::Perfmon) && inside.contains(&Cap::SysAdmin));
        assert_eq!(missing(&ALL).unwrap(), before);
    }

    #[test]
    fn what_is_given_up_is_gone_from_this_thread_alone() {
        let before = missing(&ALL).unwrap();
        std::thread::spawn(|| {
            drop_all().unwrap();
            assert_eq!(missing(&ALL).unwrap(), ALL);
            assert!(capabilities(None).unwrap().permitted.is_empty());
        })
        .join()
        .unwrap();
        assert_eq!(missing(&ALL).unwrap(), before);
    }
}
