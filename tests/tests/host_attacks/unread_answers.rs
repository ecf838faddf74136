//! Callers who ask for as much as there is and read none of it: what the daemon keeps for them is bounded, and others are served.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use bpfd_client::proto::v1 as pb;
use prost::Message;

use crate::list_pages::with_labels;
use crate::raw::{HEADERS, LIMIT, MEMBER, VIEWER, Who, connect, conversation};
use crate::world::Images;

/// Connections of one user, each with one call: as many calls as one may have.
const CALLS: usize = 64;
/// Another member of `bpfd`, who has no name.
const NAMELESS: Who = Who { uid: 4713, ..MEMBER };

/// Reads frames until the answer begins, or the call is refused.
fn answer_begins(stream: &mut UnixStream) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).unwrap();
        if head[3] == HEADERS {
            return;
        }
    }
}

#[test]
fn answers_that_nobody_reads_do_not_fill_the_daemons_memory() {
    let images = Images::new();
    images.publish("open/labels", &with_labels());
    for number in 0..40 {
        let pull = if number == 0 { "newer" } else { "never" };
        let line = format!("load -q --image registry/open/labels:1 --pull {pull} --name n{number:02}");
        images.host.bpfctl_as_member(&line).ok();
    }
    let request = pb::ListAppsRequest { page_size: Some(1000), ..Default::default() }.encode_to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0: there is no room for an answer.
    let all = conversation("/bpfd.v1.AppService/ListApps", &[0, 4, 0, 0, 0, 0], &request);
    let mut deaf = Vec::new();
    for who in [VIEWER, MEMBER, NAMELESS] {
        for _ in 0..CALLS {
            let mut stream = connect(&images.host, who);
            stream.write_all(&all).unwrap();
            deaf.push(stream);
        }
    }
    deaf.iter_mut().for_each(answer_begins);
    images.host.bpfctl("list").ok();
    images.host.bpfctl_as(4714, 4714, &[815], "list").ok();
    assert!(images.host.peak() <= 128, "{} MiB at the peak", images.host.peak());
    drop(deaf);
    images.host.bpfctl_as_viewer("list").ok();
    images.host.bpfctl("unload --all").ok();
}
