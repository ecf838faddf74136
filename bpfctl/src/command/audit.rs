//! `bpfctl audit`: the audit log as it is on disk. Root reads the files themselves: what the log says, and whether it is whole, must not
//! depend on a daemon that runs, nor on what that daemon answers.

mod filter;
mod log;
mod shown;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use bpfd_core::audit::{Anchor, Check, Finding, Head, RecordHash, Report};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::filter::{Filter, Filters};
use self::log::{Directory, Log};
use self::shown::Shown;
use crate::client::Session;
use crate::error::{Exit, Failure, note, warn};
use crate::later::Later;
use crate::output::{Block, View};

/// How often a log that is followed is looked at.
const AGAIN: Duration = Duration::from_millis(200);
/// How often the files are opened again if the daemon rotates them meanwhile: once in 32 MiB of records.
const TRIES: usize = 3;

/// Show and verify the audit log: who changed what, and who was refused
#[derive(Debug, Args)]
#[command(after_help = "\
The files are root's; bpfd need not run.

Examples:
  bpfctl audit tail -f
  bpfctl audit verify")]
pub(crate) struct Audit {
    #[command(subcommand)]
    verb: Later<AuditVerb>,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Print the last records
    #[command(after_help = "\
With -o json records are printed as they are in the log, one a line.

Examples:
  bpfctl audit tail -n 50
  bpfctl audit tail -f --principal cni")]
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
        lines: usize,
        /// Go on with records as they are written
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        filters: Filters,
        #[command(flatten)]
        dir: Directory,
    },
    /// Print all records, or those of one operation with its plan
    #[command(after_help = "\
With -o json records are printed as they are in the log, one a line. With -q the operations are printed.

Examples:
  bpfctl audit show --since 2h --app firewall
  bpfctl audit show 0b6f1d20
  bpfctl audit show --since 2026-11-01 --until 2026-11-30T12:00:00Z -o json | jq .record")]
    Show {
        /// The first digits of an operation
        operation: Option<String>,
        #[command(flatten)]
        filters: Filters,
        #[command(flatten)]
        dir: Directory,
    },
    /// Check that no record was changed, removed, added or moved
    #[command(after_help = "\
Prints the end of the chain: whoever keeps that hash on another host can tell with --head, later, that everything up to it is still as
it was. Exits with 12 if something is wrong.

Examples:
  bpfctl audit verify
  bpfctl audit verify --head 3f79bb7b435b05321651daefd374cdc681dc06faa65e374e38337b88ca046dea
  bpfctl audit verify --dir /mnt/copy -o json | jq '.items[].findings'")]
    Verify {
        /// A hash that an earlier call printed: its record must be there
        #[arg(long, value_name = "HASH")]
        head: Option<RecordHash>,
        /// Where bpfd keeps the end of the log [default: /var/lib/bpfd/audit.head; with --dir, audit.head in DIR]
        #[arg(long, value_name = "FILE")]
        anchor: Option<PathBuf>,
        #[command(flatten)]
        dir: Directory,
    },
}

impl Audit {
    pub(crate) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        match self.verb.0 {
            AuditVerb::Tail { lines, follow, filters, dir } => {
                let filter = Filter::new(filters, None);
                tail(session, lines, follow, filter, &dir).await
            }
            AuditVerb::Show { operation, filters, dir } => show(session, Filter::new(filters, operation), &dir),
            AuditVerb::Verify { head, anchor, dir } => verify(session, head, anchor, &dir),
        }
    }
}

async fn tail(
    session: &Session,
    lines: usize,
    follow: bool,
    mut filter: Filter,
    dir: &Directory,
) -> Result<Exit, Failure> {
    let mut log = Log::open(dir)?.found()?;
    let mut last = VecDeque::new();
    log.each(|line| {
        if let Some(record) = filter.admitted(line.bytes) {
            last.push_back((line.bytes.to_vec(), record));
            if last.len() > lines {
                last.pop_front();
            }
        }
        Ok(())
    })?;
    let mut shown = Shown::new(&session.printer, &filter);
    for (bytes, record) in last {
        shown.print(&bytes, &record)?;
    }
    if !follow {
        return Ok(Exit::Ok);
    }
    loop {
        tokio::time::sleep(AGAIN).await;
        log.each_new(|line| match filter.admitted(line.bytes) {
            Some(record) => shown.print(line.bytes, &record),
            None => Ok(()),
        })?;
    }
}

fn show(session: &Session, mut filter: Filter, dir: &Directory) -> Result<Exit, Failure> {
    let mut shown = Shown::new(&session.printer, &filter);
    let mut any = false;
    Log::open(dir)?.found()?.each(|line| match filter.admitted(line.bytes) {
        Some(record) => {
            any = true;
            shown.print(line.bytes, &record)
        }
        None => Ok(()),
    })?;
    if !any && !session.printer.is_quiet() {
        note("no records");
    }
    Ok(Exit::Ok)
}

fn verify(
    session: &Session,
    wanted: Option<RecordHash>,
    anchor: Option<PathBuf>,
    dir: &Directory,
) -> Result<Exit, Failure> {
    // What the anchor names is on disk before it is written, so it is read first.
    let mut known = log::anchor(dir, anchor.as_deref())?;
    let mut log = Log::open(dir)?;
    for _ in 0..TRIES {
        let now = log::anchor(dir, anchor.as_deref())?;
        let oldest = |anchor: Option<Anchor>| anchor.map(|anchor| anchor.oldest);
        if oldest(now) == oldest(known) {
            break;
        }
        (known, log) = (now, Log::open(dir)?);
    }
    if known.is_none() {
        // What the anchor names and nobody finds is a finding.
        log = log.found()?;
    }
    if known.is_none() && wanted.is_none() {
        warn(
            "the end of the log is not known: records that are missing at its start or its end cannot be told",
            "give the end that was printed before with --head, or bpfd's own with --anchor",
        );
    }
    let mut check = Check::new(known, wanted);
    log.each(|line| {
        match line.is_ended {
            true => check.line(line.file, line.number, line.bytes),
            false => check.unended(line.file, line.number, line.is_written),
        }
        Ok(())
    })?;
    let report = check.finish();
    let is_good = report.findings.is_empty();
    session.printer.show(&Verified(report))?;
    Ok(if is_good { Exit::Ok } else { Exit::Drift })
}

struct Verified(Report);

impl View for Verified {
    fn kind(&self) -> &'static str {
        "AuditVerification"
    }

    fn items(&self) -> Result<Vec<Value>, Failure> {
        let Report { findings, more, records, unchained, first, head, unfinished } = &self.0;
        let head = head.map(|Head { seq, hash }| json!({ "seq": seq, "hash": hash }));
        let one = |Finding { at, fault }: &Finding| {
            let (file, line) = at.as_ref().map(|(file, line)| (file, line)).unzip();
            json!({ "file": file, "line": line, "what": fault.to_string() })
        };
        let findings: Vec<Value> = findings.iter().map(one).collect();
        Ok(vec![json!({
            "records": records, "first": first, "head": head, "unchained": unchained, "unfinished": unfinished,
            "findings": findings, "more": more,
        })])
    }

    fn names(&self) -> Vec<String> {
        self.0.head.iter().map(|head| head.hash.to_string()).collect()
    }

    fn text(&self) -> Vec<Block> {
        let Report { findings, more, records, unchained, first, head, unfinished } = &self.0;
        let rows = findings.iter().map(|Finding { at, fault }| {
            let at = at.as_ref().map_or_else(|| "-".to_owned(), |(file, line)| format!("{file}:{line}"));
            vec![at, fault.to_string()]
        });
        let mut facts = vec![];
        if let Some(first) = first {
            facts.push(("records", format!("{records}, from {first}")));
        }
        if *unchained > 0 {
            facts.push(("without hashes", format!("{unchained} lines of an earlier version, which prove nothing")));
        }
        if *unfinished {
            facts.push(("last line", "not complete: it is being written, or a crash cut it short".to_owned()));
        }
        if *more > 0 {
            facts.push(("more", format!("{more} further findings")));
        }
        let found = findings.len().to_string();
        facts.push(("result", if findings.is_empty() { "no finding".to_owned() } else { format!("{found} findings") }));
        if let Some(Head { seq, hash }) = head {
            facts.push(("head", format!("{hash}, record {seq}")));
        }
        vec![Block::Table(&["AT", "FINDING"], rows.collect()), Block::Facts(facts)]
    }

    fn nothing(&self) -> &'static str {
        "no records"
    }
}
