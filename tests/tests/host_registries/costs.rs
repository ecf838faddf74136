//! What a pull asks of a registry and of the disk: counts, not times. `cargo xtask bench pull` has the times.

use bpfd_tests::Calls;

use crate::world::Images;

/// Requests for an image, its signatures, and what they are made of.
const REQUESTS: usize = 5;
/// Calls that wait for the disk.
const SYNCS: u64 = 5;
/// Of these, the audit log's.
const RECORDS: u64 = 2;

fn syncs(calls: &Calls) -> u64 {
    ["fsync", "fdatasync", "syncfs", "sync_file_range"].into_iter().filter_map(|name| calls.get(name)).sum()
}

#[test]
fn a_signed_pull_takes_five_requests_and_as_many_syncs_at_most() {
    let images = Images::signed();
    let pull = || {
        let before = images.registry.seen().len();
        let calls = images.host.calls(|| drop(images.host.bpfctl("image pull -q registry/team/app:1").ok()));
        (images.registry.seen().len() - before, calls)
    };
    let (requests, calls) = pull();
    assert!(requests <= REQUESTS, "{:?}", images.registry.seen());
    assert!((1..=SYNCS).contains(&syncs(&calls)), "{calls:?}");
    // Nothing is new.
    let (requests, calls) = pull();
    assert_eq!(requests, 1, "{:?}", images.registry.seen());
    assert!(syncs(&calls) <= RECORDS, "{calls:?}");
}
