//! A registry that sends what a case wants, byte by byte: what no HTTP library would send.
//!
//! It has one signed image in each repository that it is asked about. Each connection carries one request. Must never listen beyond the
//! network that it was started in.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytecode_image::digest::Digest;
use bytecode_image::media;
use serde_json::json;

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// The repository, and what of it: `manifests/1`.
    pub(crate) repository: String,
    pub(crate) what: String,
    pub(crate) headers: Vec<(String, String)>,
    /// How often this was asked before.
    pub(crate) before: usize,
    /// The registry's own address.
    pub(crate) host: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The offset that a range begins at.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }

    pub(crate) fn is(&self, part: Part) -> bool {
        let Self { what, .. } = self;
        match part {
            Part::Image => what == "manifests/1",
            Part::Signatures => what.starts_with("manifests/sha256-") && what.ends_with(".sig"),
            Part::Fallback => what.starts_with("manifests/sha256-") && !what.ends_with(".sig"),
            Part::Referrers => what.starts_with("referrers/"),
            Part::Blob => what.starts_with("blobs/"),
            Part::Token => what == "token",
            Part::Any => true,
        }
    }
}

/// What a request is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Image,
    Signatures,
    Fallback,
    Referrers,
    Blob,
    Token,
    Any,
}

/// An answer before it is bytes.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: status.to_owned(), headers: vec![], body: body.into() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    /// As HTTP/1.1, with its length.
    pub(crate) fn send(self) -> Sent {
        let length = self.body.len().to_string();
        let Self { status, headers, body } = self.with("content-length", &length);
        let head = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
        Sent::bytes([format!("HTTP/1.1 {status}\r\n{head}connection: close\r\n\r\n").into_bytes(), body].concat())
    }
}

/// What goes over the connection, before it is closed.
#[derive(Clone, Debug)]
pub(crate) struct Sent(pub(crate) Vec<Piece>);

#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    Pause(Duration),
    /// The same bytes until nobody reads any more.
    Forever(Vec<u8>),
}

impl Sent {
    pub(crate) fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(vec![Piece::Bytes(bytes.into())])
    }

    pub(crate) fn then(mut self, piece: Piece) -> Self {
        self.0.push(piece);
        self
    }
}

/// A way to lie: what is sent in place of an honest answer.
pub(crate) type Lie = fn(&Asked, Answer) -> Sent;

/// One image with its signatures.
pub(crate) struct Published {
    /// By `manifests/NAME` or `blobs/DIGEST`: media type and bytes.
    pub(crate) parts: HashMap<String, (String, Vec<u8>)>,
}

impl Published {
    pub(crate) fn manifest(&mut self, name: &str, bytes: &[u8]) {
        for name in [name.to_owned(), Digest::of(bytes).to_string()] {
            self.parts.insert(format!("manifests/{name}"), (media::MANIFEST.to_owned(), bytes.to_owned()));
        }
    }

    pub(crate) fn blob(&mut self, bytes: &[u8]) {
        let octets = "application/octet-stream".to_owned();
        self.parts.insert(format!("blobs/{}", Digest::of(bytes)), (octets, bytes.to_owned()));
    }
}

struct Shared {
    repositories: HashMap<String, (Lie, Published)>,
    seen: Mutex<Vec<Asked>>,
    stopped: AtomicBool,
}

/// Dropped, it stops.
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Raw {
    pub(crate) fn start(address: SocketAddr, repositories: HashMap<String, (Lie, Published)>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { repositories, seen: Mutex::default(), stopped: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming() {
                if serving.stopped.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&serving);
                // Whoever hangs up before it has all is no error here.
                thread::spawn(move || connection.and_then(|connection| shared.serve(&connection, address)).ok());
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn seen(&self) -> Vec<Asked> {
        self.shared.seen.lock().unwrap().clone()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn serve(&self, mut connection: &TcpStream, address: SocketAddr) -> io::Result<()> {
        let Some(asked) = self.heard(connection, address)? else { return Ok(()) };
        let lie = self.repositories.get(&asked.repository).map(|(lie, _)| *lie);
        let honest = self.honest(&asked);
        let Sent(pieces) = lie.map_or_else(|| honest.clone().send(), |lie| lie(&asked, honest.clone()));
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => connection.write_all(&bytes)?,
                Piece::Pause(pause) => thread::sleep(pause),
                Piece::Forever(bytes) => loop {
                    connection.write_all(&bytes)?;
                },
            }
        }
        Ok(())
    }

    fn heard(&self, connection: &TcpStream, address: SocketAddr) -> io::Result<Option<Asked>> {
        let mut lines = BufReader::new(connection).lines();
        let Some(first) = lines.next().transpose()? else { return Ok(None) };
        let mut headers = vec![];
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_owned(), value.to_owned()));
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        // `/v2/REPOSITORY/WHAT`; a token server and everything else of a repository is below `/v2/REPOSITORY` too.
        let mut parts = path.trim_start_matches("/v2/").splitn(3, '/');
        let repository = [parts.next(), parts.next()].into_iter().flatten().collect::<Vec<_>>().join("/");
        let what = parts.next().unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
        let mut seen = self.seen.lock().unwrap();
        let before = seen.iter().filter(|asked| asked.path == path).count();
        let asked = Asked { path, repository, what, headers, before, host: address.to_string() };
        seen.push(asked.clone());
        Ok(Some(asked))
    }

    /// As distribution-spec has it.
    fn honest(&self, asked: &Asked) -> Answer {
        if asked.is(Part::Token) {
            return Answer::new("200 OK", json!({"token": "t0ken"}).to_string())
                .with("content-type", "application/json");
        }
        let Some((_, published)) = self.repositories.get(&asked.repository) else {
            return Answer::new("404 Not Found", "");
        };
        if asked.is(Part::Referrers) {
            let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": []}).to_string();
            return Answer::new("200 OK", index).with("content-type", media::INDEX);
        }
        let Some((media_type, bytes)) = published.parts.get(&asked.what) else {
            return Answer::new(
                "404 Not Found",
                json!({"errors": [{"code": "NAME_UNKNOWN", "message": "none"}]}).to_string(),
            );
        };
        let digest = Digest::of(bytes).to_string();
        let answer = |status: &str, bytes: &[u8]| Answer::new(status, bytes).with("content-type", media_type);
        match asked.from() {
            Some(from) => answer("206 Partial Content", bytes.get(from..).unwrap_or_default())
                .with("content-range", &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
            None => answer("200 OK", bytes).with("docker-content-digest", &digest),
        }
    }
}
