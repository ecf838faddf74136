//! The file of the audit log: lines appended whole, put aside when it is full, the oldest going first. It must never lose a record that
//! was acknowledged.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use bpfd_core::ident::OpId;
use bpfd_core::kernel::Step;
use bpfd_core::policy::Denied;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use super::denials::Denials;
use super::{AuditSink, DeniedImage, Record, WhenFull, record};
use crate::reserve::{Reserve, is_full};

/// Bytes of the file before it is put aside, and how many are kept aside: 256 MiB with the one that is written. A load of one program
/// is some 2 KiB.
const FULL: u64 = 32 << 20;
const KEPT: u32 = 7;

/// `audit.jsonl`, appended to; `audit.jsonl.1` is the one before it.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    file: File,
    size: u64,
    full: u64,
    /// Whether part of a line may stand behind `size`.
    torn: bool,
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
    /// Opens or makes it, readable by root alone.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, size) = open(path)?;
        let reserve = Reserve::open(path.parent().unwrap_or(Path::new(".")));
        let (path, denials) = (path.to_path_buf(), Denials::new(Instant::now()));
        Ok(Self { path, file, size, full: FULL, torn: false, denials, reserve, lost: 0 })
    }

    fn append(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.append_unsynced(record)?;
        self.file.sync_data()
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
        let time = prost_types::Timestamp::from(SystemTime::now()).to_string();
        let mut line = serde_json::to_vec(&Line { time, record })?;
        line.push(b'\n');
        self.mend()?;
        if self.size >= self.full {
            // A full file that cannot be put aside grows on: better than a record that is lost.
            self.put_aside().unwrap_or_else(
                |error| tracing::error!(%error, "cannot rotate the audit log; it grows beyond its limit"),
            );
        }
        if let Err(error) = self.file.write_all(&line) {
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
        for (principal, count) in self.denials.over(now) {
            let more = Record::DeniedMore { principal: &principal, count };
            self.append(&more)
                .unwrap_or_else(|error| tracing::error!(%error, "cannot write the count of refusals to the audit log"));
        }
    }

    fn append_denial(&mut self, denied: &Denied, image: Option<&DeniedImage>) -> io::Result<()> {
        self.append_counts(Instant::now());
        match self.denials.admits(&denied.principal) {
            true => self.append(&record(denied, image)),
            false => Ok(()),
        }
    }

    /// Each step is one that a next try, after it failed, does not take again: else each record would push out an old file.
    fn put_aside(&mut self) -> io::Result<()> {
        let aside = |number: u32| self.path.with_added_extension(number.to_string());
        // Whatever a new file needs is there before a name is moved.
        let new = self.path.with_added_extension("new");
        let opened = open(&new)?;
        if self.path.try_exists()? {
            // A gap is what a failed try has left: those behind it have made room already.
            let mut gap = 1;
            while gap < KEPT && aside(gap).try_exists()? {
                gap += 1;
            }
            for number in (1..gap).rev() {
                fs::rename(aside(number), aside(number + 1))?;
            }
            fs::rename(&self.path, aside(1))?;
        }
        fs::rename(&new, &self.path)?;
        (self.file, self.size) = opened;
        sync_directory(&self.path)
    }
}

/// The file, ready for a line, and its size. A line that a crash cut short is ended, so that the next one is whole.
fn open(path: &Path) -> io::Result<(File, u64)> {
    // Never what a link leads to: somebody else may have put it there.
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?.into();
    let mut size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != *b"\n" {
        file.write_all(b"\n")?;
        size += 1;
    }
    // The name is on disk before the first record counts as written.
    sync_directory(path)?;
    Ok((file, size))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

impl AuditSink for AuditFile {
    fn write(&mut self, record: &Record<'_>, full: WhenFull) -> io::Result<()> {
        self.append_counts(Instant::now());
        self.append_when(record, full, Self::append)
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
    use bpfd_core::policy::Verb;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;

    fn denied(principal: &str) -> Denied {
        Denied {
            principal: principal.into(),
            verb: Verb::Trust,
            why: "only root".into(),
            hint: String::new(),
            rules: vec![],
        }
    }

    fn end(number: u128) -> Record<'static> {
        Record::End { operation: OpId(Uuid::from_u128(number)), result: "done" }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect()
    }

    #[test]
    fn a_record_says_when_and_what() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = AuditFile::open(&path).unwrap();
        log.denied(&denied("mallory (uid 7)")).unwrap();
        let mut lines = lines(&path);
        let time = lines[0].as_object_mut().unwrap().remove("time").unwrap();
        let time: prost_types::Timestamp = time.as_str().unwrap().parse().unwrap();
        assert!(SystemTime::try_from(time).unwrap() <= SystemTime::now());
        let expected = r#"{"principal":"mallory (uid 7)","record":"denied","verb":"change trust","why":"only root"}"#;
        assert_eq!(lines.iter().map(Value::to_string).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn a_stranger_who_is_refused_again_and_again_writes_few_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = AuditFile::open(&path).unwrap();
        for _ in 0..1000 {
            log.denied(&denied("mallory (uid 7)")).unwrap();
        }
        log.denied(&denied("eve (uid 8)")).unwrap();
        assert_eq!(lines(&path).len(), 11);
        // The minute is over: what was not written is counted, before the next record.
        log.denials.age();
        log.write(&end(1), WhenFull::Refuse).unwrap();
        let lines = lines(&path);
        assert_eq!((lines.len(), &lines[11]["record"]), (13, &"denied-more".into()));
        assert_eq!((&lines[11]["principal"], &lines[11]["count"]), (&"mallory (uid 7)".into(), &990.into()));
        assert_eq!(lines[12]["record"], "end");
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = AuditFile::open(&path).unwrap();
        log.full = 1;
        for number in 0..20 {
            log.write(&end(number), WhenFull::Refuse).unwrap();
        }
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut files: Vec<String> = fs::read_dir(&dir).unwrap().map(name).filter(|name| name != "reserve").collect();
        files.sort();
        let kept = (1..=KEPT).map(|number| format!("audit.jsonl.{number}"));
        assert_eq!(files, std::iter::once("audit.jsonl".to_owned()).chain(kept).collect::<Vec<_>>());
        let first = |path: PathBuf| lines(&path).remove(0)["operation"].clone();
        let number = |number| serde_json::to_value(OpId(Uuid::from_u128(number))).unwrap();
        assert_eq!(first(path.clone()), number(19));
        assert_eq!(first(path.with_added_extension("7")), number(12));
    }

    #[test]
    fn what_a_failed_try_to_put_it_aside_left_costs_no_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = AuditFile::open(&path).unwrap();
        log.full = 1;
        for number in 0..20 {
            log.write(&end(number), WhenFull::Refuse).unwrap();
        }
        let operation = |path: PathBuf| lines(&path).remove(0)["operation"].clone();
        let number = |number| serde_json::to_value(OpId(Uuid::from_u128(number))).unwrap();
        let aside = |number: u32| path.with_added_extension(number.to_string());
        // It was moved, and the new one did not get its name.
        fs::rename(&path, dir.path().join("moved")).unwrap();
        log.write(&end(20), WhenFull::Refuse).unwrap();
        assert_eq!(
            (operation(path.clone()), operation(aside(1)), operation(aside(7))),
            (number(20), number(18), number(12))
        );
        // The others were moved, and it was not.
        fs::remove_file(aside(1)).unwrap();
        log.write(&end(21), WhenFull::Refuse).unwrap();
        assert_eq!(
            (operation(path.clone()), operation(aside(1)), operation(aside(7))),
            (number(21), number(20), number(12))
        );
        // No new file can be made: it grows on, and nothing is moved.
        fs::create_dir(path.with_added_extension("new")).unwrap();
        for number in 22..25 {
            log.write(&end(number), WhenFull::Refuse).unwrap();
        }
        assert_eq!((lines(&path).len(), operation(aside(1)), operation(aside(7))), (4, number(20), number(12)));
    }

    /// Runs itself again under a limit of a file's size, where a write fails halfway as on a full disk.
    #[test]
    fn a_write_that_fails_halfway_leaves_whole_lines() {
        const LIMITED: &str = "TEST_AUDIT_UNDER_A_LIMIT";
        const NAME: &str = "audit::file::tests::a_write_that_fails_halfway_leaves_whole_lines";
        if let Some(path) = std::env::var_os(LIMITED) {
            let path = Path::new(&path);
            let mut log = AuditFile::open(path).unwrap();
            let failed =
                (0..1000).map(|number| log.write(&end(number), WhenFull::Refuse)).take_while(Result::is_ok).count();
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
    fn a_line_that_a_crash_cut_short_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        fs::write(&path, "{\"record\":\"be").unwrap();
        AuditFile::open(&path).unwrap().write(&end(1), WhenFull::Refuse).unwrap();
        let lines = lines(&path);
        assert_eq!((lines.len(), &lines[1]["record"]), (2, &"end".into()));
    }
}
