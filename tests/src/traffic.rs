//! Packets from `far` to `uplink`, each answered: a packet that a chain drops or loses is missed.

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use bpfd_sys::netns::Netns;

use crate::host::Host;

/// Packets that go through while the case goes on.
#[derive(Debug)]
pub struct Flood {
    ends: Arc<AtomicBool>,
    sender: Option<JoinHandle<u64>>,
}

/// Packets sent before the end of a flood is looked for again.
const ROUND: u64 = 1_000;

impl Host {
    /// Sends that many packets at once, at most 100. All came back.
    #[track_caller]
    pub fn ping(&self, packets: u64) {
        // Not `-f`: it waits for the last answer no longer than for twice the slowest one before it.
        ping(self.in_far("ping"), &["-l", &packets.to_string()], packets);
    }

    /// Sends that many datagrams to a port of `uplink`; nobody listens.
    pub fn send_datagrams(&self, port: u16, datagrams: u64) {
        let far = Netns::open(&self.path("/run/netns/far")).unwrap();
        let send = || {
            let socket = UdpSocket::bind("10.9.0.2:0").unwrap();
            for _ in 0..datagrams {
                assert_eq!(socket.send_to(b"packet", ("10.9.0.1", port)).unwrap(), 6);
            }
        };
        far.within(send).unwrap();
    }

    /// Packets without a pause, each after the answer to the one before, until `end`.
    pub fn flood(&self) -> Flood {
        let ends = Arc::new(AtomicBool::new(false));
        let (told, enter) = (ends.clone(), self.way_to_far());
        let sender = thread::spawn(move || {
            let mut packets = 0;
            while !told.load(Ordering::Relaxed) {
                ping(enter("ping"), &["-f"], ROUND);
                packets += ROUND;
            }
            packets
        });
        Flood { ends, sender: Some(sender) }
    }
}

impl Flood {
    /// Ends it: how many packets were sent and came back, every one.
    pub fn end(mut self) -> u64 {
        self.ends.store(true, Ordering::Relaxed);
        self.sender.take().unwrap().join().unwrap()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // The case failed; what became of the packets is not what it failed of.
        drop(self.sender.take().map(JoinHandle::join));
    }
}

#[track_caller]
fn ping(mut ping: Command, how: &[&str], packets: u64) {
    ping.args(how).args(["-q", "-W", "1", "-c", &packets.to_string(), "10.9.0.1"]);
    let said = String::from_utf8(ping.output().unwrap().stdout).unwrap();
    let all = format!("{packets} packets transmitted, {packets} received, 0% packet loss");
    assert!(said.contains(&all), "{said}");
}
