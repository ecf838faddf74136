//! A program that prints a rate each second until it is interrupted.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

use bpfd_client::proto::v1 as pb;
use bpfd_tests::Host;
use rustix::process::{Pid, Signal, kill_process};

/// The daemon's, as the case sees it.
pub(crate) const SOCKET: &str = "/run/case/run/bpfd/bpfd.sock";

/// Lines without a rate after which a program is taken for one that counts nothing.
const LINES: usize = 20;

/// Ends with the case.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended, and been waited for, already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts the program, makes something that it counts, and waits until it prints so. Interrupted, it ends well, and nothing of it stays.
#[track_caller]
pub(crate) fn counts(host: &Host, command: &[&str], unit: &str, event: impl Fn()) {
    let (program, rest) = command.split_first().unwrap();
    let mut command = host.command(program);
    command.args(["--socket", SOCKET]).args(rest).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Program(command.spawn().unwrap());
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    loop {
        let Some(line) = lines.next() else {
            let mut complained = String::new();
            program.0.stderr.take().unwrap().read_to_string(&mut complained).unwrap();
            panic!("it ended: {said:?}{complained}{}", host.log());
        };
        let line = line.unwrap();
        let rate: u64 = line.strip_suffix(&format!(" {unit}/s")).unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
        said.push(line);
        if rate > 0 {
            break;
        }
        assert!(said.len() < LINES, "it counts nothing: {said:?}{}", host.log());
        event();
    }
    let apps = || host.ask(async |daemon| daemon.apps(pb::ListAppsRequest::default()).await);
    assert_eq!(apps().len(), 1, "it is loaded while the program runs");
    kill_process(Pid::from_child(&program.0), Signal::INT).unwrap();
    lines.for_each(drop);
    let status = program.0.wait().unwrap();
    assert!(status.success(), "interrupted, it ends with {status}");
    assert_eq!(apps(), []);
}
