//! The file of the audit log: lines appended whole, put aside when it is full, the oldest going first. It must never lose a record that
//! was acknowledged.
//!
//! Long because the ways in which a write or a rotation can fail are read together, with their tests.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use bpfd_core::audit::{Head, KEPT};
use bpfd_core::ident::OpId;
use bpfd_core::kernel::Step;
use bpfd_core::policy::Denied;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use super::anchor::AnchorFile;
use super::denials::{Denials, More};
use super::journal::Journal;
use super::resume::{Resume, first, kept_aside, resume};
use super::{AuditSink, DeniedImage, Open, Record, WhenFull, record};
use crate::reserve::{Reserve, is_full};

/// Bytes of the file before it is put aside: 256 MiB with those that are kept aside. A load of one program is some 3 KiB.
const FULL: u64 = 32 << 20;

/// `audit.jsonl`, appended to; `audit.jsonl.1` is the one before it.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: File,
    size: u64,
    full: u64,
    /// Whether part of a line may stand behind `size`.
    torn: bool,
    /// The last record.
    head: Head,
    anchor: AnchorFile,
    open: Vec<Open>,
    journal: Option<Journal>,
    denials: Denials,
    reserve: Reserve,
    /// Records that had no room.
    lost: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    record: &'a Record<'a>,
}

impl AuditFile {
    /// Opens or makes it, readable by root alone, with what is kept of its end elsewhere. A line that a crash cut short is taken away:
    /// it was never acknowledged.
    pub fn open(path: &Path, anchor: &Path, journal: Option<Journal>) -> io::Result<Self> {
        let file = open(path)?;
        let mut files = vec![file.try_clone()?];
        for number in 1..=KEPT {
            files.extend(kept_aside(&aside(path, number))?);
        }
        let (mut anchor, known) = AnchorFile::open(anchor)?;
        let Resume { head, is_chained, open, whole } = resume(&files, known.map(|anchor| anchor.head()))?;
        let cut = file.metadata()?.len().saturating_sub(whole);
        if cut > 0 {
            file.set_len(whole)?;
        }
        let unanchored = known.is_none() && is_chained;
        if unanchored {
            let oldest = files.iter().rev().find_map(|file| first(file).transpose());
            anchor.keep_from(oldest.transpose()?.unwrap_or(1));
        }
        let reserve = Reserve::open(path.parent().unwrap_or(Path::new(".")));
        let denials = Denials::new(Instant::now());
        let (path, size, full, torn, lost) = (path.to_path_buf(), whole, FULL, false, 0);
        let mut log = Self { path, file, size, full, torn, head, anchor, open, journal, denials, reserve, lost };
        if known.is_none() {
            log.anchor.write(head);
        }
        if cut > 0 {
            tracing::warn!(bytes = cut, "the last line of the audit log was not complete: it was taken away");
            log.write(&Record::Cut { bytes: cut }, WhenFull::Count)?;
        }
        if unanchored {
            tracing::warn!(
                "what is kept of the end of the audit log was missing: `bpfctl audit verify --head` shows more"
            );
            log.write(&Record::Unanchored, WhenFull::Count)?;
        }
        Ok(log)
    }

    fn append(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.append_with(record, File::sync_data)?;
        self.anchor.write(self.head);
        Ok(())
    }

    /// Appends, by the rules of a full disk. The room that is kept is taken again before anything is added.
    fn append_when(
        &mut self,
        record: &Record<'_>,
        full: WhenFull,
        append: fn(&mut Self, &Record<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let kept = self.reserve.take();
        if full == WhenFull::Refuse {
            kept?;
        }
        self.append_lost();
        match append(self, record) {
            Err(error) if full == WhenFull::Count && is_full(&error) => {
                while self.reserve.give() {
                    if append(self, record).is_ok() {
                        return Ok(());
                    }
                }
                self.lost += 1;
                tracing::error!(
                    lost = self.lost,
                    "the disk is full: a removal goes on without its record in the audit log"
                );
                Ok(())
            }
            other => other,
        }
    }

    /// How many records had no room, once there is some.
    fn append_lost(&mut self) {
        if self.lost > 0 && self.append(&Record::Lost { count: self.lost }).is_ok() {
            self.lost = 0;
        }
    }

    fn append_unsynced(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.append_with(record, |_| Ok(()))
    }

    fn append_with(&mut self, record: &Record<'_>, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        self.mend()?;
        if self.size >= self.full {
            // A full file that cannot be put aside grows on: better than a record that is lost.
            self.put_aside().unwrap_or_else(
                |error| tracing::error!(%error, "cannot rotate the audit log; it grows beyond its limit"),
            );
        }
        self.append_line(record, sync)
    }

    fn append_line(&mut self, record: &Record<'_>, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        let time = prost_types::Timestamp::from(SystemTime::now()).to_string();
        let (head, mut line) = self.head.seal(&Line { time, record })?;
        line.push('\n');
        if let Err(error) = self.file.write_all(line.as_bytes()).and_then(|()| sync(&self.file)) {
            self.torn = true;
            self.mend().unwrap_or_else(|error| {
                tracing::error!(
                    %error,
                    "cannot remove an incomplete record from the audit log; the next write tries again"
                );
            });
            return Err(error);
        }
        self.size += u64::try_from(line.len()).unwrap_or(u64::MAX);
        self.head = head;
        match *record {
            Record::Begin { operation, kind, .. } => self.open.push(Open { operation, kind }),
            Record::End { operation, .. } => self.open.retain(|open| open.operation != operation),
            Record::Intent { .. }
            | Record::Denied { .. }
            | Record::Lost { .. }
            | Record::DeniedMore { .. }
            | Record::Continued { .. }
            | Record::Cut { .. }
            | Record::Unanchored => {}
        }
        if let Some(journal) = &mut self.journal {
            journal.send(line.trim_end());
        }
        Ok(())
    }

    /// Takes away what a write that failed has left of its line: the next record would be glued to it.
    fn mend(&mut self) -> io::Result<()> {
        // If somebody else has made the file shorter, there is nothing of ours to take away.
        if self.torn && self.file.metadata()?.len() > self.size {
            self.file.set_len(self.size)?;
        }
        self.torn = false;
        Ok(())
    }

    /// The counts of a window that is over. A count that cannot be written is no reason to refuse what the caller of now asks.
    fn append_counts(&mut self, now: Instant) {
        for More { principal, uid, count } in self.denials.over(now) {
            let more = Record::DeniedMore { principal: &principal, uid, count };
            self.append(&more)
                .unwrap_or_else(|error| tracing::error!(%error, "cannot write the count of refusals to the audit log"));
        }
    }

    fn append_denial(&mut self, denied: &Denied, image: Option<&DeniedImage>) -> io::Result<()> {
        let now = Instant::now();
        self.append_counts(now);
        match self.denials.admits(denied.uid, &denied.principal, now) {
            true => self.append(&record(denied, image)),
            false => Ok(()),
        }
    }

    /// Each step is one that a next try, after it failed, does not take again: else each record would push out an old file.
    fn put_aside(&mut self) -> io::Result<()> {
        let aside = |number: u32| aside(&self.path, number);
        // Whatever a new file needs is there before a name is moved.
        let new = self.path.with_added_extension("new");
        let opened = open(&new)?;
        if self.path.try_exists()? {
            // A gap is what a failed try has left: those behind it have made room already.
            let mut gap = 1;
            while gap < KEPT && aside(gap).try_exists()? {
                gap += 1;
            }
            // What is about to go is not missed, and what is in the file is.
            if aside(gap).try_exists()?
                && let Some(kept) = kept_aside(&aside(gap.saturating_sub(1)))?
                && let Some(oldest) = first(&kept)?
            {
                self.anchor.keep_from(oldest);
            }
            self.file.sync_data()?;
            self.anchor.write_synced(self.head)?;
            for number in (1..gap).rev() {
                fs::rename(aside(number), aside(number + 1))?;
            }
            fs::rename(&self.path, aside(1))?;
        }
        fs::rename(&new, &self.path)?;
        (self.file, self.size) = (opened, 0);
        sync_directory(&self.path)?;
        // The next start reads no file before this one; without it, one more.
        let open = self.open.clone();
        self.append_line(&Record::Continued { open: &open }, |_| Ok(()))
    }
}

fn aside(path: &Path, number: u32) -> PathBuf {
    path.with_added_extension(number.to_string())
}

/// The file, ready for a line.
fn open(path: &Path) -> io::Result<File> {
    // Never what a link leads to: somebody else may have put it there.
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: File = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?.into();
    // The name is on disk before the first record counts as written.
    sync_directory(path)?;
    Ok(file)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

impl AuditSink for AuditFile {
    fn write(&mut self, record: &Record<'_>, full: WhenFull) -> io::Result<()> {
        if let Record::End { operation, .. } = record
            && !self.is_open(*operation)
        {
            // Its first record had no room.
            self.lost += 1;
            return Ok(());
        }
        self.append_counts(Instant::now());
        self.append_when(record, full, Self::append)
    }

    fn unended(&self) -> &[Open] {
        &self.open
    }

    /// The plan is on disk since the operation's first record; that a step was about to be taken need not outlive the host.
    fn intent(&mut self, operation: OpId, step: &Step, full: WhenFull) -> io::Result<()> {
        self.append_when(&Record::Intent { operation, step: step.to_string() }, full, Self::append_unsynced)
    }

    fn denied(&mut self, denied: &Denied) -> io::Result<()> {
        self.append_denial(denied, None)
    }

    fn denied_image(&mut self, denied: &Denied, image: &DeniedImage) -> io::Result<()> {
        self.append_denial(denied, Some(image))
    }
}

#[cfg(test)]
mod tests {
    use bpfd_core::audit::Check;
    use bpfd_core::ident::AppUid;
    use bpfd_core::policy::Verb;
    use bpfd_core::state::Owner;
    use serde_json::Value;
    use uuid::Uuid;

    use super::super::Kind;
    use super::*;

    fn denied(principal: &str, uid: u32) -> Denied {
        Denied {
            principal: principal.into(),
            uid,
            verb: Verb::Trust,
            why: "only root".into(),
            hint: String::new(),
            rules: vec![],
        }
    }

    fn intent(number: u128) -> Record<'static> {
        Record::Intent { operation: OpId(Uuid::from_u128(number)), step: "swap".to_owned() }
    }

    /// A log with its anchor beside it.
    fn log(path: &Path) -> AuditFile {
        AuditFile::open(path, &path.with_extension("head"), None).unwrap()
    }

    /// What a check of all files finds.
    fn findings(path: &Path) -> Vec<String> {
        let anchor = fs::read_to_string(path.with_extension("head")).unwrap().parse().unwrap();
        let mut check = Check::new(Some(anchor), None);
        let files = (1..=KEPT).rev().map(|number| aside(path, number)).chain([path.to_path_buf()]);
        for file in files.filter(|file| file.exists()) {
            let text = fs::read_to_string(&file).unwrap();
            (1..).zip(text.lines()).for_each(|(number, line)| check.line("f", number, line.as_bytes()));
        }
        check.finish().findings.iter().map(|finding| finding.fault.to_string()).collect()
    }

    const NOTHING: [String; 0] = [];

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect()
    }

    #[test]
    fn a_record_says_when_and_what() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = log(&path);
        log.denied(&denied("mallory", 7)).unwrap();
        let mut lines = lines(&path);
        let time = lines[0].as_object_mut().unwrap().remove("time").unwrap();
        let time: prost_types::Timestamp = time.as_str().unwrap().parse().unwrap();
        assert!(SystemTime::try_from(time).unwrap() <= SystemTime::now());
        let record = lines[0].as_object_mut().unwrap();
        assert_eq!(record.remove("seq"), Some(1.into()));
        assert!(["prev", "hash"].iter().all(|key| record.remove(*key).is_some()));
        let expected = r#"{"principal":"mallory","record":"denied","uid":7,"verb":"change trust","why":"only root"}"#;
        assert_eq!(lines.iter().map(Value::to_string).collect::<Vec<_>>(), [expected]);
        assert_eq!(findings(&path), NOTHING);
    }

    #[test]
    fn a_stranger_who_is_refused_again_and_again_writes_few_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = log(&path);
        for _ in 0..1000 {
            log.denied(&denied("mallory", 7)).unwrap();
        }
        log.denied(&denied("eve", 8)).unwrap();
        assert_eq!(lines(&path).len(), 11);
        // The minute is over: what was not written is counted, before the next record.
        log.denials.age();
        log.write(&intent(1), WhenFull::Refuse).unwrap();
        let lines = lines(&path);
        assert_eq!((lines.len(), &lines[11]["record"]), (13, &"denied-more".into()));
        assert_eq!((&lines[11]["principal"], &lines[11]["count"]), (&"mallory".into(), &990.into()));
        assert_eq!(lines[12]["record"], "intent");
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = log(&path);
        log.full = 1;
        for number in 0..20 {
            log.write(&intent(number), WhenFull::Refuse).unwrap();
        }
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut files: Vec<String> = fs::read_dir(&dir)
            .unwrap()
            .map(name)
            .filter(|name| !["reserve", "audit.head"].contains(&name.as_str()))
            .collect();
        files.sort();
        let kept = (1..=KEPT).map(|number| format!("audit.jsonl.{number}"));
        assert_eq!(files, std::iter::once("audit.jsonl".to_owned()).chain(kept).collect::<Vec<_>>());
        let first = |path: PathBuf| lines(&path).pop().unwrap()["operation"].clone();
        let number = |number| serde_json::to_value(OpId(Uuid::from_u128(number))).unwrap();
        assert_eq!(first(path.clone()), number(19));
        assert_eq!(first(path.with_added_extension("7")), number(12));
        // What rotation has deleted is not missed, and what somebody else has is.
        assert_eq!(findings(&path), NOTHING);
        fs::remove_file(path.with_added_extension("7")).unwrap();
        let [missing] = findings(&path).try_into().unwrap();
        assert!(missing.ends_with("at the start, and rotation has not deleted them"), "{missing}");
    }

    #[test]
    fn a_start_goes_on_with_the_chain() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for number in 0..3 {
            let mut log = log(&path);
            // As after each rotation.
            log.full = if number == 1 { 1 } else { FULL };
            log.intent(OpId(Uuid::from_u128(number)), &Step::PinApp(AppUid(Uuid::nil())), WhenFull::Count).unwrap();
            log.write(&intent(number), WhenFull::Refuse).unwrap();
            // Not on disk for certain, and there all the same after the death of a process.
            log.intent(OpId(Uuid::from_u128(number)), &Step::PinApp(AppUid(Uuid::nil())), WhenFull::Count).unwrap();
        }
        assert_eq!(findings(&path), NOTHING);
    }

    #[test]
    fn what_somebody_removed_from_the_log_stays_missing_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let write = |number| log(&path).write(&intent(number), WhenFull::Refuse).unwrap();
        (1..=3).for_each(write);
        let text = fs::read_to_string(&path).unwrap();
        let shorter: Vec<&str> = text.lines().take(2).collect();
        for (left, missing) in [
            (shorter.join("\n") + "\n", "record 4 is where record 3 should be: record 3 is missing, or out of order"),
            (text.replace("000003", "000004"), "record 3 was changed after it was written"),
            (String::new(), "records 1 to 3 are missing at the start, and rotation has not deleted them"),
        ] {
            fs::write(&path, left).unwrap();
            let head = fs::read_to_string(path.with_extension("head")).unwrap();
            write(4);
            assert_eq!(findings(&path), [missing]);
            fs::write(path.with_extension("head"), head).unwrap();
        }
    }

    #[test]
    fn links_and_pipes_in_the_place_of_old_files_are_neither_read_nor_waited_for() {
        use rustix::fs::{CWD, FileType, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        log(&path).write(&intent(1), WhenFull::Refuse).unwrap();
        // All that is on record is elsewhere now, and a start without its anchor looks at every file.
        fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        fs::remove_file(path.with_extension("head")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), aside(&path, 1)).unwrap();
        mknodat(CWD, aside(&path, 2), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        log(&path).write(&intent(2), WhenFull::Refuse).unwrap();
        let told: Vec<String> = lines(&path).iter().map(|line| format!("{} {}", line["seq"], line["record"])).collect();
        assert_eq!(told, ["1 \"intent\""]);
        // Nor in a rotation, which looks at the oldest but one.
        for number in 3..=KEPT {
            mknodat(CWD, aside(&path, number), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        }
        let mut log = log(&path);
        log.full = 1;
        log.write(&intent(3), WhenFull::Refuse).unwrap();
        assert_eq!(lines(&path).last().unwrap()["record"], "intent");
    }

    #[test]
    fn a_log_whose_anchor_is_lost_says_so_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        log(&path).write(&intent(1), WhenFull::Refuse).unwrap();
        fs::remove_file(path.with_extension("head")).unwrap();
        log(&path).write(&intent(2), WhenFull::Refuse).unwrap();
        let records: Vec<Value> = lines(&path).iter().map(|line| line["record"].clone()).collect();
        assert_eq!(records, ["intent", "unanchored", "intent"]);
        assert_eq!(findings(&path), NOTHING);
    }

    #[test]
    fn operations_without_an_end_are_known_to_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let owner = Owner { uid: 0, user: None };
        let id = |number| OpId(Uuid::from_u128(number));
        let begin = |number, kind| {
            let (changes, apps, owner) = (&[][..], &[][..], &owner);
            Record::Begin { operation: id(number), kind, owner, changes, apps, plan: None, late: false }
        };
        let mut begun = log(&path);
        for number in 1..=3 {
            begun.write(&begin(number, Kind::Change), WhenFull::Refuse).unwrap();
        }
        begun.ended(id(2), "done");
        // One that never began has no end either: it is counted.
        begun.ended(id(9), "done");
        assert_eq!(begun.lost, 1);
        begun.full = 1;
        begun.write(&begin(4, Kind::Host), WhenFull::Refuse).unwrap();
        let open = [(1, Kind::Change), (3, Kind::Change), (4, Kind::Host)];
        let open = open.map(|(number, kind)| Open { operation: id(number), kind });
        assert_eq!(AuditSink::unended(&begun), open);
        assert_eq!(AuditSink::unended(&log(&path)), open);
        // The daemon ended in a rotation, before the new file had its first record.
        fs::rename(&path, aside(&path, 1)).unwrap();
        assert_eq!(AuditSink::unended(&log(&path)), open);
    }

    #[test]
    fn what_a_failed_try_to_put_it_aside_left_costs_no_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = log(&path);
        log.full = 1;
        for number in 0..20 {
            log.write(&intent(number), WhenFull::Refuse).unwrap();
        }
        let operation = |path: PathBuf| lines(&path).pop().unwrap()["operation"].clone();
        let number = |number| serde_json::to_value(OpId(Uuid::from_u128(number))).unwrap();
        let aside = |number: u32| path.with_added_extension(number.to_string());
        // It was moved, and the new one did not get its name.
        fs::rename(&path, dir.path().join("moved")).unwrap();
        log.write(&intent(20), WhenFull::Refuse).unwrap();
        assert_eq!(
            (operation(path.clone()), operation(aside(1)), operation(aside(7))),
            (number(20), number(18), number(12))
        );
        // The others were moved, and it was not.
        fs::remove_file(aside(1)).unwrap();
        log.write(&intent(21), WhenFull::Refuse).unwrap();
        assert_eq!(
            (operation(path.clone()), operation(aside(1)), operation(aside(7))),
            (number(21), number(20), number(12))
        );
        // No new file can be made: it grows on, and nothing is moved.
        fs::create_dir(path.with_added_extension("new")).unwrap();
        for number in 22..25 {
            log.write(&intent(number), WhenFull::Refuse).unwrap();
        }
        assert_eq!((lines(&path).len(), operation(aside(1)), operation(aside(7))), (5, number(20), number(12)));
    }

    /// Runs itself again under a limit of a file's size, where a write fails halfway as on a full disk.
    #[test]
    fn a_write_that_fails_halfway_leaves_whole_lines() {
        const LIMITED: &str = "TEST_AUDIT_UNDER_A_LIMIT";
        const NAME: &str = "audit::file::tests::a_write_that_fails_halfway_leaves_whole_lines";
        if let Some(path) = std::env::var_os(LIMITED) {
            let path = Path::new(&path);
            let mut log = log(path);
            let failed =
                (0..1000).map(|number| log.write(&intent(number), WhenFull::Refuse)).take_while(Result::is_ok).count();
            assert!(failed < 1000);
            assert_eq!((lines(path).len(), fs::metadata(path).unwrap().len()), (failed, log.size));
            assert!(lines(path).iter().all(Value::is_object));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("trap '' XFSZ; ulimit -f 3; exec \"$0\" --exact {NAME}")])
            .arg(std::env::current_exe().unwrap())
            .env(LIMITED, dir.path().join("audit.jsonl"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_taken_away_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        log(&path).write(&intent(1), WhenFull::Refuse).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, whole.clone() + "{\"seq\":2,").unwrap();
        log(&path).write(&intent(2), WhenFull::Refuse).unwrap();
        let lines = lines(&path);
        let told: Vec<String> = lines.iter().map(|line| format!("{} {}", line["record"], line["bytes"])).collect();
        assert_eq!(told, ["\"intent\" null", "\"cut\" 9", "\"intent\" null"]);
        assert_eq!(findings(&path), NOTHING);
    }

    #[test]
    fn what_an_earlier_version_wrote_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        fs::write(&path, "{\"time\":\"then\",\"record\":\"end\"}\n").unwrap();
        log(&path).write(&intent(1), WhenFull::Refuse).unwrap();
        assert_eq!((lines(&path).len(), &lines(&path)[1]["seq"]), (2, &1.into()));
        assert_eq!(findings(&path), NOTHING);
    }
}
