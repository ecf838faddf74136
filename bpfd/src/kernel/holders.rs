//! Which processes hold a program or a link, from /proc: what to tell somebody whose hook is taken. The best that can be seen from
//! here: processes of other containers may be hidden, and a pin holds without a process.

use std::fs;
use std::path::Path;

use bpfd_sys::bpf::{LinkId, ProgId};

/// More are not listed: one is enough to find the owner.
const LISTED: usize = 8;

/// Processes that hold the program or the link, as `pid (command)`. What cannot be read is passed over.
pub(crate) fn holders(proc: &Path, program: ProgId, link: Option<LinkId>) -> Vec<String> {
    let lines = [Some(format!("prog_id:\t{program}")), link.map(|link| format!("link_id:\t{link}"))];
    let wanted = |info: &str| info.lines().any(|line| lines.iter().flatten().any(|wanted| line == wanted));
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let holding = pids.into_iter().filter(|pid| holds(&proc.join(pid.to_string()), &wanted));
    holding.take(LISTED).map(|pid| format!("{pid} ({})", command(&proc.join(pid.to_string())))).collect()
}

fn holds(process: &Path, wanted: &impl Fn(&str) -> bool) -> bool {
    let Ok(entries) = fs::read_dir(process.join("fd")) else { return false };
    entries.flatten().any(|entry| {
        // `anon_inode:bpf-prog`, `anon_inode:bpf_link`: the rest is not worth another file.
        let is_bpf = fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("anon_inode:bpf"));
        let info = process.join("fdinfo").join(entry.file_name());
        is_bpf && fs::read_to_string(info).is_ok_and(|info| wanted(&info))
    })
}

/// A process chooses its own name: at most 15 bytes, shown as printable text.
fn command(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    bpfd_core::names::printable(name.trim_end_matches('\n'))
}
