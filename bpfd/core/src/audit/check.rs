//! The check of a chain: line by line, oldest first, each fault named once and the rest checked all the same.
//!
//! It must never trust what a damaged line says of itself.

use super::{Anchor, Fault, Finding, Head, RecordHash, Report, Sealed, Unsealed};

/// Findings that are kept; further ones are counted. A person reads the first few.
const KEPT: usize = 1000;
/// Places that the next record may have after a fault.
const PLACES: usize = 4;

/// Where a record may be: its number, and the hash of the one before it if that one is known.
#[derive(Clone, Copy, Debug)]
struct Place {
    seq: u64,
    prev: Option<RecordHash>,
}

/// See the module. Lines go in with [`Check::line`].
#[derive(Debug)]
pub struct Check {
    anchor: Option<Anchor>,
    wanted: Option<RecordHash>,
    report: Report,
    /// Where the next record may be, the likeliest first; none before the first record.
    places: Vec<Place>,
    /// Lines before the first record that are damaged.
    damaged_first: u64,
    last: Option<Head>,
    highest: u64,
    met: bool,
}

impl Check {
    /// `anchor` is what the daemon kept, `wanted` a hash that an administrator kept.
    pub fn new(anchor: Option<Anchor>, wanted: Option<RecordHash>) -> Self {
        Self {
            met: anchor.is_none_or(|anchor| anchor.seq == 0),
            anchor,
            wanted,
            report: Report::default(),
            places: vec![],
            damaged_first: 0,
            last: None,
            highest: 0,
        }
    }

    /// The next line, without its end.
    pub fn line(&mut self, file: &str, number: u64, line: &[u8]) {
        let fault = match Sealed::read(line) {
            Ok(sealed) if sealed.is_intact(line) => return self.record(file, number, sealed),
            Ok(sealed) => Fault::Altered { seq: sealed.head.seq },
            Err(Unsealed::Unchained) if self.last.is_none() && self.damaged_first == 0 => {
                self.report.unchained += 1;
                return;
            }
            Err(Unsealed::Unchained | Unsealed::Malformed) => Fault::NotARecord,
        };
        self.damaged(file, number, fault);
    }

    /// A line at the end of a file, without an end. In the file that is written it is one that is being written, or that a crash cut
    /// short: it was never acknowledged.
    pub fn unended(&mut self, file: &str, number: u64, is_written: bool) {
        match is_written {
            true => self.report.unfinished = true,
            false => self.damaged(file, number, Fault::Unended),
        }
    }

    /// After the last line.
    pub fn finish(mut self) -> Report {
        self.report.head = self.anchor.map(|anchor| anchor.head()).filter(|head| head.seq > 0).or(self.last);
        if let Some(Anchor { seq, .. }) = self.anchor
            && seq > self.highest
        {
            self.missing(Fault::NoEnd { from: self.highest.saturating_add(1), to: seq });
        } else if let Some(Anchor { seq, .. }) = self.anchor
            && !self.met
            && self.report.findings.is_empty()
        {
            self.missing(Fault::OtherHead { seq });
        }
        if let Some(hash) = self.wanted {
            self.missing(Fault::NoSuchHead { hash });
        }
        self.report
    }

    fn record(&mut self, file: &str, number: u64, sealed: Sealed) {
        let Sealed { head, prev } = sealed;
        let Head { seq, hash } = head;
        let fault = match self.places.iter().find(|place| place.seq == seq) {
            Some(Place { prev: Some(known), .. }) if *known != prev => Some(Fault::Unlinked { seq }),
            Some(_) => None,
            None => match self.places.first() {
                Some(Place { seq: expected, .. }) => Some(Fault::OutOfPlace { seq, expected: *expected }),
                None => {
                    self.first(sealed);
                    None
                }
            },
        };
        let strays = matches!(fault, Some(Fault::OutOfPlace { .. }));
        if let Some(fault) = fault {
            self.found(Some((file.to_owned(), number)), fault);
        }
        let after = Place { seq: seq.saturating_add(1), prev: Some(hash) };
        // What follows is after this record, or after the one whose place it has taken.
        let others = self.places.iter().filter(|_| strays).map(|place| place.seq.saturating_add(1));
        let others = others.map(|seq| Place { seq, prev: None });
        self.places = std::iter::once(after).chain(others).take(PLACES).collect();
        self.report.records += 1;
        self.report.first.get_or_insert(seq);
        self.last = Some(head);
        self.highest = self.highest.max(seq);
        if let Some(anchor) = self.anchor
            && anchor.seq == seq
        {
            match anchor.hash == hash {
                true => self.met = true,
                false => self.found(Some((file.to_owned(), number)), Fault::OtherHead { seq }),
            }
        }
        self.wanted = self.wanted.filter(|wanted| *wanted != hash);
    }

    /// The first record of the oldest file: those before it were rotated away, or removed.
    fn first(&mut self, sealed: Sealed) {
        let seq = sealed.head.seq;
        // The administrator's record may be the last one that was rotated away.
        self.wanted = self.wanted.filter(|wanted| *wanted != sealed.prev);
        if let Some(Anchor { oldest, .. }) = self.anchor
            && seq > oldest.saturating_add(self.damaged_first)
        {
            self.missing(Fault::NoStart { from: oldest, to: seq.saturating_sub(1) });
        }
        if seq == 1 && sealed.prev != RecordHash::default() {
            self.missing(Fault::Unlinked { seq });
        }
    }

    fn damaged(&mut self, file: &str, number: u64, fault: Fault) {
        self.found(Some((file.to_owned(), number)), fault);
        self.damaged_first += u64::from(self.last.is_none());
        // It stands for the next record, or beside it.
        let next = self.places.iter().map(|place| Place { seq: place.seq.saturating_add(1), prev: None });
        self.places = next.chain(self.places.iter().copied()).take(PLACES).collect();
        self.highest = self.places.first().map_or(self.highest, |place| self.highest.max(place.seq.saturating_sub(1)));
    }

    fn missing(&mut self, fault: Fault) {
        self.found(None, fault);
    }

    fn found(&mut self, at: Option<(String, u64)>, fault: Fault) {
        match self.report.findings.len() < KEPT {
            true => self.report.findings.push(Finding { at, fault }),
            false => self.report.more += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RECORDS: u64 = 40;

    /// A log as the daemon writes it, and its anchor.
    fn log() -> (Vec<u8>, Anchor) {
        let (mut head, mut text) = (Head::default(), String::new());
        for number in 0..RECORDS {
            let plan = (number % 3 == 0).then_some("load-ext\nswap\n-- committed");
            let record = json!({ "time": number, "record": "begin", "operation": "ab", "plan": plan });
            let (next, line) = head.seal(&record).unwrap();
            (head, text) = (next, text + &line + "\n");
        }
        (text.into_bytes(), Anchor { seq: head.seq, hash: head.hash, oldest: 1 })
    }

    fn check(bytes: &[u8], anchor: Option<Anchor>, wanted: Option<RecordHash>) -> Report {
        let mut check = Check::new(anchor, wanted);
        for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
            match line.strip_suffix(b"\n") {
                Some(line) => check.line("f", number, line),
                None => check.unended("f", number, true),
            }
        }
        check.finish()
    }

    fn lines(bytes: &[u8]) -> Vec<&[u8]> {
        bytes.split_inclusive(|byte| *byte == b'\n').collect()
    }

    fn told(report: &Report) -> Vec<String> {
        let at = |finding: &Finding| finding.at.as_ref().map(|(file, line)| format!("{file}:{line}: "));
        report.findings.iter().map(|finding| format!("{}{}", at(finding).unwrap_or_default(), finding.fault)).collect()
    }

    /// The same numbers in each run (Knuth's MMIX generator).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % limit
        }
    }

    #[test]
    fn an_unchanged_log_has_no_finding() {
        let (bytes, anchor) = log();
        let report = check(&bytes, Some(anchor), Some(anchor.hash));
        let expected = Report { records: RECORDS, first: Some(1), head: Some(anchor.head()), ..Report::default() };
        assert_eq!(report, expected);
        assert_eq!(check(&[], None, None), Report::default());
    }

    #[test]
    fn each_of_10_000_flipped_bytes_dropped_and_swapped_records_is_named() {
        let (bytes, anchor) = log();
        let whole = lines(&bytes);
        let number = |index: usize| u64::try_from(index).unwrap() + 1;
        let line_of = |at: usize| number(bytes[..at].iter().filter(|byte| **byte == b'\n').count());
        let mut numbers = Numbers(7);
        for round in 0..10_000 {
            let one = numbers.below(whole.len());
            let other = (one + 1 + numbers.below(whole.len() - 1)) % whole.len();
            let (changed, named): (Vec<u8>, Vec<u64>) = match round % 4 {
                0 | 1 => {
                    let at = numbers.below(bytes.len());
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << numbers.below(8);
                    (changed, vec![line_of(at)])
                }
                2 => {
                    let mut kept = whole.clone();
                    kept.remove(one);
                    (kept.concat(), vec![number(one)])
                }
                _ => {
                    let mut swapped = whole.clone();
                    swapped.swap(one, other);
                    (swapped.concat(), vec![number(one), number(other)])
                }
            };
            let report = check(&changed, Some(anchor), None);
            // In a log that starts with record 1, a record's number is that of its line.
            let names = |number: u64| {
                report.findings.iter().any(|Finding { at, fault }| match fault {
                    Fault::NoStart { from, to } | Fault::NoEnd { from, to } => (*from..=*to).contains(&number),
                    Fault::OutOfPlace { seq, expected } if seq > expected => (*expected..=*seq).contains(&number),
                    _ => at.as_ref().is_some_and(|(_, line)| *line == number),
                })
            };
            assert!(named.iter().all(|number| names(*number)), "round {round}, {named:?}: {:?}", told(&report));
            // Nor is everything after it called damaged.
            assert!(report.findings.len() <= 6, "round {round}, {named:?}: {:?}", told(&report));
        }
    }

    #[test]
    fn what_is_missing_at_an_end_is_told_by_the_anchor_alone() {
        let (bytes, anchor) = log();
        let whole = lines(&bytes);
        let (front, back) = (whole[..38].concat(), whole[3..].concat());
        assert_eq!(told(&check(&front, Some(anchor), None)), ["records 39 to 40 are missing at the end"]);
        assert_eq!(
            told(&check(&back, Some(anchor), None)),
            ["records 1 to 3 are missing at the start, and rotation has not deleted them"]
        );
        assert_eq!(check(&back, Some(Anchor { oldest: 4, ..anchor }), None).findings, []);
        // Nobody can tell without one.
        assert_eq!(check(&front, None, None).findings, []);
        assert_eq!(check(&back, None, None).findings, []);
        // A hash that somebody kept elsewhere tells, too.
        assert_eq!(check(&front, None, Some(anchor.hash)).findings.len(), 1);
        let third = Sealed::read(whole[2].trim_ascii_end()).unwrap().head.hash;
        assert_eq!(check(&back, None, Some(third)).findings, [], "the last one that was rotated away");
        let empty = check(&[], Some(anchor), None);
        assert_eq!(told(&empty), ["records 1 to 40 are missing at the end"]);
    }

    #[test]
    fn a_chain_written_anew_is_not_the_one_of_the_anchor() {
        let (bytes, anchor) = log();
        let (mut head, mut text) = (Head::default(), String::new());
        for line in String::from_utf8(bytes).unwrap().lines() {
            let mut record: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            ["seq", "prev", "hash"].iter().for_each(|key| drop(record.remove(*key)));
            record.insert("operation".into(), "cd".into());
            let (next, line) = head.seal(&record).unwrap();
            (head, text) = (next, text + &line + "\n");
        }
        assert_eq!(check(text.as_bytes(), None, None).findings, []);
        assert_eq!(
            told(&check(text.as_bytes(), Some(anchor), None)),
            ["f:40: record 40 is not the one that bpfd wrote: its hash is another"]
        );
    }

    #[test]
    fn lines_of_an_earlier_version_are_counted_and_no_finding_before_the_chain_alone() {
        let (bytes, anchor) = log();
        let old = b"{\"time\":\"then\",\"record\":\"end\"}\n{\"record\":\"be\n";
        let report = check(&[&old[..], &bytes].concat(), Some(anchor), None);
        assert_eq!((report.findings.len(), report.unchained, report.records), (0, 2, RECORDS));
        let report = check(&[&bytes[..], old].concat(), Some(anchor), None);
        let line = "this line is no record, or was changed after it was written";
        assert_eq!(told(&report), [format!("f:41: {line}"), format!("f:42: {line}")]);
    }

    #[test]
    fn a_line_that_is_being_written_is_no_finding() {
        let (bytes, anchor) = log();
        let report = check(&[&bytes[..], b"{\"seq\":41,"].concat(), Some(anchor), None);
        assert!(report.unfinished && report.findings.is_empty(), "{:?}", told(&report));
        // One that was on disk is.
        let report = check(&bytes[..bytes.len() - 1], Some(anchor), None);
        assert_eq!(told(&report), ["record 40 is missing at the end"]);
    }
}
