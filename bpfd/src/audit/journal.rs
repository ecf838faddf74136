//! A copy of the audit log in the journal, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>): one datagram a record,
//! each of its facts a field. It must never wait for the journal, nor be a reason for anything else to fail.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// See the module.
#[derive(Debug)]
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Whether the last record was not taken: said once, not for each.
    failed: bool,
}

impl Journal {
    /// The journal that listens at a path, now or later.
    pub fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_path_buf(), failed: false })
    }

    /// Sends a line of the log. One that is too long for a datagram is sent without its text: its number and hash lead to it.
    pub(super) fn send(&mut self, line: &str) {
        let Ok(Value::Object(record)) = serde_json::from_str(line) else { return };
        let named = |(key, value): (String, String)| (format!("BPFD_{}", key.to_uppercase()), value);
        let mut facts: Vec<_> = fields(&record).into_iter().map(named).collect();
        let mut sent = self.datagram(&facts, line);
        if sent.as_ref().is_err_and(|error| error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())) {
            facts.retain(|(_, value)| value.len() <= 256);
            sent = self.datagram(&facts, "this record is too long for the journal: see the audit log");
        }
        let failed = sent.is_err();
        if let Err(error) = sent
            && !self.failed
        {
            tracing::warn!(%error, "the journal does not take records of the audit log; they are in the log itself");
        }
        self.failed = failed;
    }

    fn datagram(&self, facts: &[(String, String)], message: &str) -> io::Result<()> {
        let mut datagram = Vec::new();
        let own = [("MESSAGE", message), ("PRIORITY", "5"), ("SYSLOG_IDENTIFIER", "bpfd-audit")];
        let all = own.into_iter().chain(facts.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        for (key, value) in all {
            // The form for values that may have more than one line.
            datagram.extend_from_slice(key.as_bytes());
            datagram.push(b'\n');
            datagram.extend_from_slice(&u64::try_from(value.len()).unwrap_or_default().to_le_bytes());
            datagram.extend_from_slice(value.as_bytes());
            datagram.push(b'\n');
        }
        self.socket.send_to(&datagram, &self.path).map(drop)
    }
}

/// `operation`, `owner_user`, …: texts and numbers as they are, lists as JSON.
fn fields(record: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let one = |(key, value): (&String, &Value)| match value {
        Value::Object(inner) => {
            fields(inner).into_iter().map(|(rest, value)| (format!("{key}_{rest}"), value)).collect()
        }
        Value::String(text) => vec![(key.clone(), text.clone())],
        other => vec![(key.clone(), other.to_string())],
    };
    record.iter().flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields of one datagram.
    fn received(socket: &UnixDatagram) -> Vec<(String, String)> {
        let mut bytes = vec![0; 1 << 20];
        let length = socket.recv(&mut bytes).unwrap();
        let (mut rest, mut fields) = (&bytes[..length], vec![]);
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
            let size = usize::try_from(u64::from_le_bytes(rest[end + 1..end + 9].try_into().unwrap())).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            fields.push((text(&rest[..end]), text(&rest[end + 9..end + 9 + size])));
            assert_eq!(rest[end + 9 + size], b'\n');
            rest = &rest[end + 10 + size..];
        }
        fields
    }

    #[test]
    fn a_record_is_a_datagram_of_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut journal = Journal::at(&path).unwrap();
        // Nobody listens yet.
        journal.send("{\"seq\":1}");
        let socket = UnixDatagram::bind(&path).unwrap();
        let line = "{\"seq\":2,\"record\":\"begin\",\"owner\":{\"uid\":0,\"user\":\"root\"},\"plan\":\"a\\nb\",\"apps\":[\"x\"]}";
        journal.send(line);
        let field = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut fields = received(&socket);
        fields.sort();
        let expected = [
            field("BPFD_APPS", "[\"x\"]"),
            field("BPFD_OWNER_UID", "0"),
            field("BPFD_OWNER_USER", "root"),
            field("BPFD_PLAN", "a\nb"),
            field("BPFD_RECORD", "begin"),
            field("BPFD_SEQ", "2"),
            field("MESSAGE", line),
            field("PRIORITY", "5"),
            field("SYSLOG_IDENTIFIER", "bpfd-audit"),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn a_record_that_is_too_long_is_sent_without_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::at(&path).unwrap();
        journal.send(&format!("{{\"seq\":3,\"plan\":\"{}\"}}", "x".repeat(1 << 20)));
        let fields = received(&socket);
        let keys: Vec<&str> = fields.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "BPFD_SEQ"]);
    }
}
