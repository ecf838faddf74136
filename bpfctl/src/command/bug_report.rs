//! `bpfctl bug-report`: one file with what somebody needs who looks for a defect from afar. Owns which parts there are; what is secret
//! in them `redact` says. It must never read keys or auth files, nor wait long for a daemon that does not answer.

mod redact;

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bpfd_proto::v1 as pb;
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use indicatif::HumanBytes;
use prost::{Message, Name};
use serde_json::{Value, json};

use crate::client::{Client, ClientError, Session};
use crate::error::{Exit, Failure, Local, error_chain};
use crate::output::{self, Block, View, message, messages};

/// One answer of the daemon, and journalctl. A daemon that hangs is a reason to write a report.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one part: more is cut, so that a report can be sent by mail.
const PART: u64 = 1 << 20;
/// Lines of the log: the last hours of a daemon that says what it does.
const LINES: &str = "1000";

/// Write what a bug report needs to a file, without secrets
#[derive(Debug, Args)]
#[command(after_help = "\
It has versions, checks, what is loaded and where, the policy, the kernel's settings and the log.
The file is a tarball for its owner alone (mode 0600), and none is overwritten. Keys and auth files
are never read. Passwords in registries.toml and in the log, and values of globals, are left out.
Names of programs, images, users and interfaces are in it: look through it before you send it.

Examples:
  bpfctl bug-report
  bpfctl bug-report /tmp/report.tar.gz
  sudo bpfctl bug-report")]
pub(crate) struct BugReport {
    /// Where to write it [default: bpfd-bug-report-SECONDS.tar.gz in this directory]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where the daemon's configuration is
    #[arg(long, value_name = "DIR", default_value = "/etc/bpfd")]
    etc: PathBuf,
}

impl BugReport {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let file = self.file.unwrap_or_else(|| PathBuf::from(format!("bpfd-bug-report-{seconds}.tar.gz")));
        let mut report = Report::default();
        daemon(session, &mut report).await;
        host(&mut report);
        configuration(&self.etc, &mut report);
        report.text("log.txt", "the last lines of bpfd in the journal", journal());
        report.contents();
        let bytes = report.tarball(seconds).map_err(|error| refused(&file, Exit::Other).cause(error.to_string()))?;
        write_new(&file, &bytes)?;
        session.printer.show(&Written { file, parts: report.parts })?;
        Ok(Exit::Ok)
    }
}

/// The parts so far. What goes in goes through `redact`.
#[derive(Default)]
struct Report {
    parts: Vec<Part>,
}

struct Part {
    name: &'static str,
    about: &'static str,
    /// Text without secrets, or what says why there is none.
    text: String,
}

impl Report {
    /// A part, or why it is missing.
    fn text(&mut self, name: &'static str, about: &'static str, text: Result<String, String>) {
        let text = text.unwrap_or_else(|why| format!("not there: {why}\n"));
        self.parts.push(Part { name, about, text: redact::text(&text) });
    }

    /// A document of the API.
    fn document(&mut self, name: &'static str, about: &'static str, kind: &str, items: Result<Vec<Value>, String>) {
        let text = items.and_then(|items| {
            let mut document = json!({ "apiVersion": pb::App::PACKAGE, "kind": kind, "items": items });
            redact::document(&mut document);
            output::json(&document).map_err(|failure| told(&failure))
        });
        let text = text.unwrap_or_else(|why| redact::text(&format!("not there: {why}\n")));
        self.parts.push(Part { name, about, text });
    }

    /// The first part says what the others are.
    fn contents(&mut self) {
        let mut text =
            "What `bpfctl bug-report` wrote. Passwords, keys and the values of globals are left out.\n\n".to_owned();
        for Part { name, about, .. } in &self.parts {
            text.push_str(&format!("{name:16}{about}\n"));
        }
        self.parts.insert(0, Part { name: "README", about: "what the other files are", text });
    }

    fn tarball(&self, seconds: u64) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for Part { name, about: _, text } in &self.parts {
            let mut header = tar::Header::new_gnu();
            header.set_size(u64::try_from(text.len()).unwrap_or_default());
            header.set_mode(0o600);
            header.set_mtime(seconds);
            tar.append_data(&mut header, format!("bpfd-bug-report/{name}"), text.as_bytes())?;
        }
        tar.into_inner()?.finish()
    }
}

/// What the daemon says; each part by itself, as a defect may be in one of them. After a call without an answer it is not asked again.
async fn daemon(session: &Session, report: &mut Report) {
    let client = within(async { session.client().await.map_err(|failure| told(&failure)) }).await;
    let mut asked = Asked { client };
    let info = asked.one(async |client| client.info(pb::GetInfoRequest {}).await).await;
    let bpfctl = json!({ "bpfctl": env!("CARGO_PKG_VERSION") });
    match info {
        Ok(mut info) => {
            info.insert(0, bpfctl);
            report.document("version.json", "versions of bpfctl and of the daemon", "Version", Ok(info));
        }
        Err(why) => {
            let items = vec![bpfctl, json!({ "bpfd": why })];
            report.document("version.json", "version of bpfctl, and why not the daemon's", "Version", Ok(items));
        }
    }
    let checks = asked.many(async |client| Ok(client.doctor(pb::DoctorRequest {}).await?.checks)).await;
    report.document("doctor.json", "what `bpfctl doctor` finds", "Check", checks);
    let apps = asked.many(async |client| client.apps(pb::ListAppsRequest::default()).await).await;
    report.document("apps.json", "loaded apps", "App", apps);
    let links = asked.many(async |client| client.links(pb::ListLinksRequest::default()).await).await;
    report.document("links.json", "links and their states", "Link", links);
    let chains = asked.many(async |client| client.chains(pb::ListChainsRequest::default()).await).await;
    report.document("chains.json", "chains, with the programs of others", "Chain", chains);
    let images = asked.many(async |client| client.images(pb::ListImagesRequest::default()).await).await;
    report.document("images.json", "images of the store", "Image", images);
    let state = asked.one(async |client| client.state(pb::GetStateRequest {}).await).await;
    report.document("state.json", "what differs since a loss of the state", "GetStateResponse", state);
    let policy = asked.one(async |client| client.policy(pb::GetPolicyRequest {}).await).await;
    report.document("policy.json", "the rules in force", "GetPolicyResponse", policy);
    let programs = asked.many(async |client| Ok(client.program_files(pb::ListProgramFilesRequest {}).await?.programs));
    let programs = programs.await;
    report.document("programs.json", "programs of files and how they stand", "FileProgram", programs);
}

/// The connection, as long as it answers; else why not.
struct Asked {
    client: Result<Client, String>,
}

impl Asked {
    async fn ask<T>(&mut self, call: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, String> {
        let client = self.client.as_mut().map_err(|why| why.clone())?;
        let (mut answered, answer) = (false, async { call(client).await.map_err(|error| error_chain(&error)) });
        let answer = within(async {
            let answer = answer.await;
            answered = true;
            answer
        });
        let answer = answer.await;
        if let (false, Err(why)) = (answered, &answer) {
            self.client = Err(why.clone());
        }
        answer
    }

    async fn one<M: Message + Name>(
        &mut self,
        call: impl AsyncFnOnce(&mut Client) -> Result<M, ClientError>,
    ) -> Result<Vec<Value>, String> {
        let answer = self.ask(call).await?;
        message(&answer).map(|item| vec![item]).map_err(|failure| told(&failure))
    }

    async fn many<M: Message + Name>(
        &mut self,
        call: impl AsyncFnOnce(&mut Client) -> Result<Vec<M>, ClientError>,
    ) -> Result<Vec<Value>, String> {
        let answer = self.ask(call).await?;
        messages(&answer).map_err(|failure| told(&failure))
    }
}

async fn within<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(_elapsed) => Err(format!("the daemon did not answer within {} s", PATIENCE.as_secs())),
    }
}

fn told(failure: &Failure) -> String {
    match failure {
        Failure::Daemon(error) => error_chain(error),
        Failure::Usage(error) => error.to_string(),
        Failure::Local(local) => local.message.clone(),
        Failure::Output(error) => error.to_string(),
    }
}

/// The kernel, as far as BPF depends on it. Its command line is left out: it may have secrets.
fn host(report: &mut Report) {
    let facts = [
        "/proc/version",
        "/etc/os-release",
        "/proc/uptime",
        "/proc/sys/net/core/bpf_jit_enable",
        "/proc/sys/net/core/bpf_jit_harden",
        "/proc/sys/kernel/unprivileged_bpf_disabled",
        "/sys/kernel/security/lockdown",
    ];
    let fact = |path: &&str| {
        let text = read(Path::new(path)).unwrap_or_else(|why| format!("not there: {why}"));
        format!("{path}:\n{}\n", text.trim_end())
    };
    let mounts = read(Path::new("/proc/self/mounts")).unwrap_or_default();
    let bpf = mounts.lines().filter(|line| line.split(' ').nth(2) == Some("bpf")).map(|line| format!("{line}\n"));
    let bpf: String = bpf.collect();
    let vmlinux = fs::metadata("/sys/kernel/btf/vmlinux")
        .map_or_else(|error| format!("not there: {error}"), |metadata| format!("{} bytes", metadata.len()));
    let facts: String = facts.iter().map(fact).collect();
    let text = format!("{facts}/sys/kernel/btf/vmlinux:\n{vmlinux}\nmounts of bpffs:\n{bpf}");
    report.text("kernel.txt", "the kernel and its settings for BPF", Ok(text));
}

/// Of the configuration two files; of the others names alone.
fn configuration(etc: &Path, report: &mut Report) {
    report.text("bpfd.toml", "the daemon's settings", read(&etc.join("bpfd.toml")));
    let registries = read(&etc.join("registries.toml"));
    report.text("registries.toml", "registries, mirrors and proxies, without passwords", registries);
    let names = ["policy.d", "programs.d"].map(|directory| {
        let names = match fs::read_dir(etc.join(directory)) {
            Ok(entries) => {
                let mut names: Vec<String> =
                    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
                names.sort();
                names.join("\n")
            }
            Err(error) => format!("not there: {error}"),
        };
        format!("{directory}:\n{names}\n")
    });
    report.text("files.txt", "names of the files of the policy and of programs", Ok(names.concat()));
}

/// A file, up to the limit of a part.
fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(PART).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What systemd's journal has of the daemon. A journal that hangs is left.
fn journal() -> Result<String, String> {
    let failed = |error: io::Error| format!("cannot run journalctl: {error}");
    let mut child = Command::new("journalctl")
        .args(["--unit", "bpfd", "--lines", LINES, "--no-pager", "--output", "short-iso"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = stdout.take(PART).read_to_end(&mut bytes).map(|_length| bytes);
            // The receiver is gone only if this took too long.
            drop(sender.send(read));
        });
    }
    let read = receiver.recv_timeout(PATIENCE);
    // It has said all, or too much, or nothing in time: it ends in each case.
    drop(child.kill());
    child.wait().map_err(failed)?;
    match read {
        Ok(Ok(bytes)) if bytes.is_empty() => Err("journalctl printed nothing".to_owned()),
        Ok(Ok(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(Err(error)) => Err(failed(error)),
        Err(_late) => Err(format!("journalctl did not end within {} s", PATIENCE.as_secs())),
    }
}

/// A file that was not there before, whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => refused(path, Exit::Conflict)
            .cause("the file exists, and a report never overwrites one")
            .hint("give another name, or move the file away"),
        _ => refused(path, Exit::Other).cause(error.to_string()),
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        fs::remove_file(path).unwrap_or_default();
        refused(path, Exit::Other).cause(error.to_string()).into()
    })
}

fn refused(path: &Path, exit: Exit) -> Local {
    Local::new(exit, format!("cannot write the report `{}`", path.display()))
}

struct Written {
    file: PathBuf,
    parts: Vec<Part>,
}

impl View for Written {
    fn kind(&self) -> &'static str {
        "BugReport"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        let part = |part: &Part| json!({ "name": part.name, "about": part.about, "sizeBytes": part.text.len() });
        let parts: Vec<Value> = self.parts.iter().map(part).collect();
        Ok(vec![json!({ "file": self.file.display().to_string(), "parts": parts })])
    }

    fn names(&self) -> Vec<String> {
        vec![self.file.display().to_string()]
    }

    fn text(&self) -> Vec<Block> {
        let rows = self.parts.iter().map(|part| {
            let size = HumanBytes(u64::try_from(part.text.len()).unwrap_or_default()).to_string();
            vec![part.name.to_owned(), size, part.about.to_owned()]
        });
        vec![
            Block::Lines(vec![format!("wrote {}; look through it before you send it", self.file.display())]),
            Block::Table(&["PART", "SIZE", "WHAT"], rows.collect()),
        ]
    }

    fn nothing(&self) -> &'static str {
        "no report"
    }
}
