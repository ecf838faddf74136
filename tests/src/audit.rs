//! What must hold of a case's audit log whatever the case does: the chain is whole, and each operation has one begin and one end.

use std::collections::BTreeMap;
use std::path::Path;

use bpfd_core::audit::{Anchor, Check, KEPT};
use serde_json::Value;

/// The records of a log, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Audit {
    /// All of them, the oldest first.
    pub records: Vec<Value>,
    /// What is wrong, in a sentence each.
    pub wrong: Vec<String>,
    /// Operations without an end: of a daemon that runs, they may be under way.
    pub unended: Vec<String>,
}

impl Audit {
    /// Reads the log of a root; nothing is wrong with one that is not there.
    pub fn read(root: &Path) -> Self {
        let log = root.join("var/log/bpfd/audit.jsonl");
        // What the anchor names is in the log before it is in the anchor.
        let anchor = std::fs::read_to_string(root.join("var/lib/bpfd/audit.head")).ok();
        let anchor = anchor.and_then(|text| text.parse::<Anchor>().ok());
        let mut audit = Self::default();
        let mut check = Check::new(anchor, None);
        let aside = (1..=KEPT).rev().map(|number| log.with_added_extension(number.to_string()));
        for path in aside.chain([log.clone()]) {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for (number, line) in (1..).zip(text.lines()) {
                check.line(&path.display().to_string(), number, line.as_bytes());
                audit.records.push(serde_json::from_str(line).unwrap_or_else(|_damaged| line.into()));
            }
        }
        if !log.exists() {
            return audit;
        }
        audit.wrong = check.finish().findings.iter().map(|finding| format!("{finding:?}: {}", finding.fault)).collect();
        audit.pair();
        audit
    }

    /// Each operation has one begin, and then one end; unless records were lost.
    fn pair(&mut self) {
        let mut counts = BTreeMap::<&str, (u32, u32)>::new();
        for record in &self.records {
            let Some(operation) = record["operation"].as_str() else { continue };
            let (begins, ends) = counts.entry(operation).or_default();
            match record["record"].as_str() {
                Some("begin") => *begins += 1,
                Some("end") => *ends += 1,
                Some(_) | None => {}
            }
        }
        if self.records.iter().any(|record| record["record"] == "lost") {
            return;
        }
        for (operation, (begins, ends)) in counts {
            if begins != 1 || ends > 1 {
                self.wrong.push(format!("operation {operation} has {begins} begins and {ends} ends"));
            } else if ends == 0 {
                self.unended.push(operation.to_owned());
            }
        }
    }
}
