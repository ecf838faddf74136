//! What `bpfctl bug-report` writes, and what it never does. Secrets are planted in each place that it may look at.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use super::fake::Daemon;

/// Each is planted once; the last is what the fake daemon says a global was set to.
const SECRETS: [&str; 6] = ["pr0xypw", "auth-file-pw", "key-file-pw", "log-t0ken", "log-url-pw", "\"100\""];

/// Runs it in a directory with a configuration and a journal that have secrets in them.
fn report(directory: &Path, socket: &Path, arguments: &[&str]) -> Output {
    let write = |file: &str, text: &str| {
        let path = directory.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    write("etc/bpfd.toml", "[chain]\nmode = \"fused\"\n");
    write("etc/registries.toml", "[proxy]\nhttps = \"http://me:pr0xypw@proxy.example:3128\"\n");
    write("etc/auth.json", "{\"auths\": {\"registry\": {\"auth\": \"auth-file-pw\"}}}");
    write("etc/keys/ci.key", "-----BEGIN PRIVATE KEY-----\nkey-file-pw\n-----END PRIVATE KEY-----\n");
    write("etc/policy.d/ci.toml", "version = 1\n");
    let log = "cannot pull from http://me:log-url-pw@mirror.example/v2/\nAuthorization: Bearer log-t0ken\nREADY\n";
    let journal = write("bin/journalctl", &format!("#!/bin/sh\ncat <<'END'\n{log}END\n"));
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.join("bin").display(), std::env::var("PATH").unwrap());
    Command::new(env!("CARGO_BIN_EXE_bpfctl"))
        .args(["bug-report", "report.tar.gz", "--etc", "etc"])
        .args(arguments)
        .current_dir(directory)
        .env("BPFD_SOCKET", socket)
        .env("NO_COLOR", "1")
        .env("PATH", path)
        .output()
        .unwrap()
}

/// The parts of a report by their names.
fn parts(file: &Path) -> BTreeMap<String, String> {
    let bytes = flate2::read::GzDecoder::new(fs::File::open(file).unwrap());
    let mut parts = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        parts.insert(name.strip_prefix("bpfd-bug-report/").unwrap().to_owned(), text);
    }
    parts
}

const NAMES: [&str; 15] = [
    "README",
    "apps.json",
    "bpfd.toml",
    "chains.json",
    "doctor.json",
    "files.txt",
    "images.json",
    "kernel.txt",
    "links.json",
    "log.txt",
    "policy.json",
    "programs.json",
    "registries.toml",
    "state.json",
    "version.json",
];

#[test]
fn a_bug_report_has_what_is_needed_and_none_of_the_secrets() {
    let daemon = Daemon::start();
    let output = report(daemon.directory(), &daemon.socket(), &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = daemon.directory().join("report.tar.gz");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let parts = parts(&file);
    assert_eq!(parts.keys().collect::<Vec<_>>(), NAMES);
    for (name, text) in &parts {
        let found: Vec<&str> = SECRETS.into_iter().filter(|secret| text.contains(secret)).collect();
        assert_eq!(found, [""; 0], "{name}: {text}");
    }
    // What is beside the secrets is there: the places were looked at.
    assert_eq!(parts["registries.toml"], "[proxy]\nhttps = \"http://(redacted)@proxy.example:3128\"\n");
    let log = "cannot pull from http://(redacted)@mirror.example/v2/\nAuthorization: (redacted)\nREADY\n";
    assert_eq!(parts["log.txt"], log);
    assert_eq!(parts["bpfd.toml"], "[chain]\nmode = \"fused\"\n");
    assert_eq!(
        parts["files.txt"],
        "policy.d:\nci.toml\nprograms.d:\nnot there: No such file or directory (os error 2)\n"
    );
    let document = |name: &str| serde_json::from_str::<serde_json::Value>(&parts[name]).unwrap();
    assert_eq!(document("doctor.json")["items"][1]["id"], "kernel.freplace");
    assert_eq!(document("apps.json")["items"][0]["globals"][0]["name"], "sampling");
    assert_eq!(document("apps.json")["items"][0]["globals"][0]["value"], "(redacted)");
    assert_eq!(document("chains.json")["items"][0]["interface"], "eth0");
    assert_eq!(document("version.json")["items"][1]["version"], "0.9.0");
    assert!(parts["kernel.txt"].contains("Linux version"), "{}", parts["kernel.txt"]);
    for name in &NAMES[1..] {
        assert!(parts["README"].lines().any(|line| line.starts_with(name)), "{name}");
        assert!(String::from_utf8_lossy(&output.stdout).lines().any(|line| line.starts_with(name)), "{name}");
    }

    let before = fs::read(&file).unwrap();
    let again = report(daemon.directory(), &daemon.socket(), &[]);
    let said = "error: cannot write the report `report.tar.gz`\ncause: the file exists, and a report never overwrites one\n\
                hint: give another name, or move the file away\n";
    assert_eq!((String::from_utf8_lossy(&again.stderr).as_ref(), again.status.code()), (said, Some(8)));
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_daemon_that_does_not_answer_is_said_in_the_report() {
    let directory = tempfile::tempdir().unwrap();
    // Connections are taken by the kernel, and nobody ever reads from them.
    let socket = directory.path().join("bpfd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let output = report(directory.path(), &socket, &["-q"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "report.tar.gz\n");
    drop(listener);
    let parts = parts(&directory.path().join("report.tar.gz"));
    assert_eq!(parts.keys().collect::<Vec<_>>(), NAMES);
    for name in ["apps.json", "policy.json"] {
        assert_eq!(parts[name], "not there: the daemon did not answer within 5 s\n", "{name}");
    }
    assert!(parts["version.json"].contains("the daemon did not answer within 5 s"), "{}", parts["version.json"]);
    assert!(parts["log.txt"].ends_with("READY\n"));

    fs::remove_file(directory.path().join("report.tar.gz")).unwrap();
    let output = report(directory.path(), &directory.path().join("absent.sock"), &["-q"]);
    assert!(output.status.success());
    assert!(self::parts(&directory.path().join("report.tar.gz"))["doctor.json"].starts_with("not there: "));
}
