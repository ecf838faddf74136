//! Which records are shown. Those of an operation are shown or not together: it is its first record that says who asked and for what.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::Args;
use prost_types::Timestamp;
use serde_json::Value;

use crate::args::word;

/// As the command line has them.
#[derive(Debug, Args)]
pub(super) struct Filters {
    /// Of this user alone, by name, or by number if it had no name
    #[arg(long, value_name = "USER", value_parser = word)]
    principal: Option<String>,
    /// About this app alone
    #[arg(long, value_name = "APP", value_parser = word)]
    app: Option<String>,
    /// Since a time, such as 2026-11-30T12:00:00Z, or a duration before now, such as 2h
    #[arg(long, value_name = "TIME")]
    since: Option<When>,
    /// Until a time or a duration before now
    #[arg(long, value_name = "TIME")]
    until: Option<When>,
}

/// A time in the past.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct When(SystemTime);

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "write a time, such as 2026-11-30 or 2026-11-30T12:00:00Z, or a duration, such as 90s, 30m, 2h or 7d";
        let unit = text.chars().next_back().and_then(|unit| match unit {
            's' => Some(1),
            'm' => Some(60),
            'h' => Some(3600),
            'd' => Some(86_400),
            _ => None,
        });
        if let Some(unit) = unit {
            let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u64>().ok());
            let ago = number.and_then(|number| number.checked_mul(unit)).map(Duration::from_secs);
            return ago.and_then(|ago| SystemTime::now().checked_sub(ago)).map(Self).ok_or_else(|| wrong().to_owned());
        }
        let time = text.parse::<Timestamp>().ok().and_then(|time| SystemTime::try_from(time).ok());
        time.map(Self).ok_or_else(|| wrong().to_owned())
    }
}

/// See the module.
pub(super) struct Filter {
    filters: Filters,
    /// The first digits of an operation.
    operation: Option<String>,
    /// Operations whose records are shown.
    admitted: BTreeSet<String>,
}

impl Filter {
    pub(super) fn new(filters: Filters, operation: Option<String>) -> Self {
        Self { filters, operation, admitted: BTreeSet::new() }
    }

    /// Whether one operation was asked for.
    pub(super) fn is_of_one(&self) -> bool {
        self.operation.is_some()
    }

    /// The record of a line, if it is to be shown; a line that is no record is shown if everything is.
    pub(super) fn admitted(&mut self, line: &[u8]) -> Option<Value> {
        let record = serde_json::from_slice(line).unwrap_or_else(
            |_damaged| serde_json::json!({ "record": "damaged", "line": String::from_utf8_lossy(line) }),
        );
        self.admits(&record).then_some(record)
    }

    fn admits(&mut self, record: &Value) -> bool {
        let Filters { principal, app, since, until } = &self.filters;
        let is_all = principal.is_none() && app.is_none() && self.operation.is_none();
        let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
        let operation = text("operation");
        let admitted = match text("record") {
            _ if is_all => true,
            "begin" => {
                let owner = record.get("owner");
                let is_by = |who: &String| owner.is_some_and(|owner| is_owner(owner, who));
                let apps = record.get("apps").and_then(Value::as_array);
                let is_about = |app: &String| apps.is_some_and(|apps| apps.iter().any(|name| name == app.as_str()));
                let is_it = |prefix: &String| operation.starts_with(prefix.as_str());
                let admitted = principal.as_ref().is_none_or(is_by)
                    && app.as_ref().is_none_or(is_about)
                    && self.operation.as_ref().is_none_or(is_it);
                if admitted {
                    self.admitted.insert(operation.to_owned());
                }
                admitted
            }
            "intent" => self.admitted.contains(operation),
            "end" => self.admitted.remove(operation),
            "denied" | "denied-more" => {
                let is_by = |who: &String| is_principal(record, who);
                app.is_none() && self.operation.is_none() && principal.as_ref().is_none_or(is_by)
            }
            _ => false,
        };
        let in_time = || {
            let time = text("time").parse::<Timestamp>().ok().and_then(|time| SystemTime::try_from(time).ok());
            time.is_some_and(|time| {
                since.is_none_or(|When(since)| time >= since) && until.is_none_or(|When(until)| time <= until)
            })
        };
        admitted && ((since.is_none() && until.is_none()) || in_time())
    }
}

fn is_owner(owner: &Value, who: &str) -> bool {
    let user = owner.get("user").and_then(Value::as_str);
    let uid = owner.get("uid").and_then(Value::as_u64);
    user == Some(who) || uid.is_some_and(|uid| who.parse() == Ok(uid))
}

/// Whether `mallory` with the uid 7 is this user; in records of earlier versions, `mallory (uid 7)` or `uid 7`.
fn is_principal(record: &Value, who: &str) -> bool {
    let principal = record.get("principal").and_then(Value::as_str).unwrap_or_default();
    if record.get("uid").and_then(Value::as_u64).is_some_and(|uid| who.parse() == Ok(uid)) {
        return true;
    }
    let (user, uid) = match principal.rsplit_once("uid ") {
        Some((user, uid)) => (user.trim_end_matches(" ("), uid.trim_end_matches(')')),
        None => (principal, ""),
    };
    user == who || uid == who
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_a_duration_before_now() {
        let ago = |text: &str| text.parse::<When>().map(|When(time)| time.elapsed().unwrap().as_secs());
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604_800)] {
            let ago = ago(text).unwrap();
            assert!((seconds..seconds + 60).contains(&ago), "{text}: {ago}");
        }
        let epoch =
            |text: &str| text.parse::<When>().unwrap().0.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(epoch("2026-11-30T12:00:00Z"), 1_796_040_000);
        assert_eq!(epoch("2026-11-30"), 1_795_996_800);
        for bad in ["", "h", "-2h", "soon", "99999999999999999999d", "2026-13-01"] {
            assert!(bad.parse::<When>().is_err(), "{bad}");
        }
    }

    const LOG: &str = r#"{"time":"2026-01-01T00:00:00Z","record":"begin","operation":"aa","owner":{"uid":0,"user":"root"},"apps":["fw"]}
{"time":"2026-01-02T00:00:00Z","record":"begin","operation":"bb","owner":{"uid":7,"user":"cni"},"apps":["lb"]}
{"time":"2026-01-03T00:00:00Z","record":"intent","operation":"aa","step":"swap"}
{"time":"2026-01-04T00:00:00Z","record":"end","operation":"bb","result":"done"}
{"time":"2026-01-05T00:00:00Z","record":"end","operation":"aa","result":"done"}
{"time":"2026-01-06T00:00:00Z","record":"denied","principal":"cni (uid 7)","verb":"load","why":"no"}
{"time":"2026-01-07T00:00:00Z","record":"lost","count":3}
not a record"#;

    /// The days of the records that are shown.
    fn days(filters: [Option<&str>; 4], operation: Option<&str>) -> String {
        let [principal, app, since, until] = filters.map(|text| text.map(str::to_owned));
        let when = |text: Option<String>| text.map(|text| text.parse().unwrap());
        let filters = Filters { principal, app, since: when(since), until: when(until) };
        let mut filter = Filter::new(filters, operation.map(str::to_owned));
        let shown = LOG.lines().filter_map(|line| filter.admitted(line.as_bytes()));
        shown.map(|record| record["time"].as_str().map_or('-', |time| char::from(time.as_bytes()[9]))).collect()
    }

    #[test]
    fn records_of_an_operation_are_shown_together() {
        assert_eq!(days([None; 4], None), "1234567-");
        assert_eq!(days([Some("root"), None, None, None], None), "135");
        assert_eq!(days([Some("cni"), None, None, None], None), "246");
        assert_eq!(days([Some("7"), None, None, None], None), "246");
        assert_eq!(days([Some("cn"), None, None, None], None), "");
        assert_eq!(days([None, Some("fw"), None, None], None), "135");
        assert_eq!(days([None, Some("fw"), Some("2026-01-02"), Some("2026-01-03")], None), "3");
        assert_eq!(days([None, None, Some("2026-01-05"), None], None), "567");
        assert_eq!(days([None; 4], Some("b")), "24");
    }
}
