//! What registries do, honest, odd or hostile: each case is a repository's name and what is sent in place of honest answers.
//!
//! Long because it is a list, and read as one.

use std::time::Duration;

use bytecode_image::media;
use serde_json::json;

use crate::raw::{Answer, Asked, Lie, Part, Piece, Sent};

/// A lie about one kind of request; all else is honest.
macro_rules! on {
    ($part:ident, $lie:expr) => {{
        let lie: Lie = |asked, honest| {
            let lie: Lie = $lie;
            if asked.is(Part::$part) { lie(asked, honest) } else { honest.send() }
        };
        lie
    }};
}

/// A status in place of an answer.
macro_rules! status {
    ($part:ident, $status:expr) => {
        on!($part, |_, _| Answer::new($status, "").send())
    };
}

/// Every request needs a token, or a password, and this is how that is said. `HOST` and `REPOSITORY` are this registry's.
macro_rules! challenge {
    ($($challenge:expr),*) => {{
        let lie: Lie = |asked, honest| {
            if asked.is(Part::Token) || asked.header("authorization") == Some("Bearer t0ken") {
                return honest.send();
            }
            let offers: &[&str] = &[$($challenge),*];
            unauthorized(asked, offers)
        };
        lie
    }};
}

/// The same with a token server that misbehaves.
macro_rules! token {
    ($lie:expr) => {{
        let lie: Lie = |asked, honest| {
            let lie: Lie = $lie;
            match asked.is(Part::Token) {
                true => lie(asked, honest),
                false if asked.header("authorization") == Some("Bearer t0ken") => honest.send(),
                false => unauthorized(asked, &[BEARER]),
            }
        };
        lie
    }};
}

const BEARER: &str = "Bearer realm=\"http://HOST/v2/REPOSITORY/token\",service=\"s\"";
const MIB: usize = 1 << 20;

fn unauthorized(asked: &Asked, offers: &[&str]) -> Sent {
    let own = |text: &str| text.replace("HOST", &asked.host).replace("REPOSITORY", &asked.repository);
    let refused = Answer::new("401 Unauthorized", "");
    offers.iter().fold(refused, |answer, offer| answer.with("www-authenticate", &own(offer))).send()
}

/// Headers as they are, and a body as it is.
fn raw(head: &str, body: &[u8]) -> Sent {
    Sent::bytes([head.as_bytes(), body].concat())
}

fn head(honest: &Answer, version: &str, more: &str) -> String {
    let headers = honest.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
    format!("{version} {}\r\n{headers}{more}\r\n", honest.status)
}

/// With a length that is not that of what comes.
fn of_length(honest: &Answer, length: usize, body: &[u8]) -> Sent {
    raw(&head(honest, "HTTP/1.1", &format!("content-length: {length}\r\n")), body)
}

fn half(honest: &Answer) -> &[u8] {
    honest.body.get(..honest.body.len() / 2).unwrap_or_default()
}

/// Only the first time.
fn at_first(asked: &Asked, honest: Answer, lie: impl Fn(Answer) -> Sent) -> Sent {
    if asked.before == 0 { lie(honest) } else { honest.send() }
}

fn chunked(honest: &Answer, chunks: &str) -> Sent {
    raw(&head(honest, "HTTP/1.1", "transfer-encoding: chunked\r\n"), chunks.as_bytes())
}

fn in_one_chunk(honest: &Answer) -> Sent {
    let mut body = format!("{:x}\r\n", honest.body.len()).into_bytes();
    body.extend(&honest.body);
    body.extend(b"\r\n0\r\n\r\n");
    raw(&head(honest, "HTTP/1.1", "transfer-encoding: chunked\r\n"), &body)
}

fn redirect(to: &str) -> Sent {
    Answer::new("307 Temporary Redirect", "").with("location", to).send()
}

/// A byte each half second: never silent for long.
fn drip(honest: &Answer) -> Sent {
    let start = raw(&head(honest, "HTTP/1.1", &format!("content-length: {}\r\n", honest.body.len())), b"");
    honest
        .body
        .iter()
        .fold(start, |sent, byte| sent.then(Piece::Pause(Duration::from_millis(500))).then(Piece::Bytes(vec![*byte])))
}

/// As what was compressed on the way begins.
fn gzipped(mut honest: Answer) -> Answer {
    honest.body.splice(..0, *b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
    honest.with("content-encoding", "gzip")
}

fn changed(mut honest: Answer) -> Answer {
    if let Some(last) = honest.body.last_mut() {
        *last ^= 1;
    }
    honest
}

/// A list of referrers.
fn list(entries: serde_json::Value) -> Answer {
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries}).to_string();
    Answer::new("200 OK", index).with("content-type", media::INDEX)
}

fn page(asked: &Asked, number: usize) -> Sent {
    let next = format!("<{}?page={number}>; rel=\"next\"", asked.path.split('?').next().unwrap_or_default());
    list(json!([])).with("link", &next).send()
}

/// Whether its image must be signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    /// `open/NAME`: it need not be.
    Open,
    /// `team/NAME`: it must be, and is.
    Signed,
    /// `team/NAME`, and it is not.
    Unsigned,
}

use Scope::{Open, Signed, Unsigned};

/// Those that take long are asked side by side.
pub(crate) const SLOW: &[(&str, Scope, Lie)] = &[
    (
        "body-never-comes",
        Open,
        on!(Blob, |_, honest| of_length(&honest, honest.body.len(), half(&honest))
            .then(Piece::Pause(Duration::from_secs(60)))),
    ),
    ("answer-never-comes", Open, on!(Image, |_, _| Sent(vec![Piece::Pause(Duration::from_secs(60))]))),
    ("blob-drips", Open, on!(Blob, |_, honest| drip(&honest))),
    ("list-of-referrers-drips", Signed, on!(Referrers, |_, honest| drip(&honest))),
    ("503-always", Open, status!(Image, "503 Service Unavailable")),
    (
        "429-always-later",
        Open,
        on!(Image, |_, _| Answer::new("429 Too Many Requests", "").with("retry-after", "1").send()),
    ),
];

pub(crate) const QUICK: &[(&str, Scope, Lie)] = &[
    // Statuses.
    ("honest", Open, |_, honest| honest.send()),
    ("honest-and-signed", Signed, |_, honest| honest.send()),
    ("unsigned", Unsigned, |_, honest| honest.send()),
    ("tag-404", Open, status!(Image, "404 Not Found")),
    ("tag-403", Open, status!(Image, "403 Forbidden")),
    ("tag-418", Open, status!(Image, "418 I'm a teapot")),
    ("tag-500", Open, status!(Image, "500 Internal Server Error")),
    ("tag-204", Open, status!(Image, "204 No Content")),
    ("tag-304", Open, status!(Image, "304 Not Modified")),
    ("tag-999", Open, status!(Image, "999 What")),
    (
        "early-hints",
        Open,
        on!(Image, |_, honest| {
            let Sent(pieces) = honest.send();
            Sent([vec![Piece::Bytes(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec())], pieces].concat())
        }),
    ),
    (
        "500-twice",
        Open,
        on!(Image, |asked, honest| if asked.before < 2 {
            Answer::new("500 Internal Server Error", "").send()
        } else {
            honest.send()
        }),
    ),
    (
        "429-now",
        Open,
        on!(Image, |asked, honest| at_first(asked, honest, |_| Answer::new("429 Too Many Requests", "")
            .with("retry-after", "0")
            .send())),
    ),
    (
        "429-until-a-past-date",
        Open,
        on!(Image, |asked, honest| at_first(asked, honest, |_| {
            Answer::new("429 Too Many Requests", "").with("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT").send()
        })),
    ),
    (
        "429-until-nonsense",
        Open,
        on!(Image, |asked, honest| at_first(asked, honest, |_| Answer::new("429 Too Many Requests", "")
            .with("retry-after", "-1 soon")
            .send())),
    ),
    (
        "429-for-ages",
        Open,
        on!(Image, |_, _| Answer::new("429 Too Many Requests", "").with("retry-after", "99999999999999999999").send()),
    ),
    (
        "429-until-2094",
        Open,
        on!(Image, |_, _| Answer::new("429 Too Many Requests", "")
            .with("retry-after", "Sat, 06 Nov 2094 08:49:37 GMT")
            .send()),
    ),
    (
        "429-for-blobs",
        Open,
        on!(Blob, |asked, honest| at_first(asked, honest, |_| Answer::new("429 Too Many Requests", "")
            .with("retry-after", "0")
            .send())),
    ),
    // Challenges (RFC 9110 §11.6.1) and token servers.
    ("401-without-a-challenge", Open, status!(Image, "401 Unauthorized")),
    ("bearer", Open, challenge!(BEARER)),
    (
        "basic-and-bearer-in-one-header",
        Open,
        challenge!("Basic realm=\"x\", Bearer realm=\"http://HOST/v2/REPOSITORY/token\",service=\"s\""),
    ),
    (
        "digest-and-bearer-in-one-header",
        Open,
        challenge!(
            "Digest realm=\"a, b\", qop=\"auth, auth-int\", nonce=\"n\\\"n\", Bearer realm=\"http://HOST/v2/REPOSITORY/token\""
        ),
    ),
    ("digest-and-bearer-in-two-headers", Open, challenge!("Digest realm=\"x\", nonce=\"n\"", BEARER)),
    ("negotiate-and-bearer", Open, challenge!("Negotiate", "NTLM", BEARER)),
    ("negotiate-and-basic", Open, challenge!("Negotiate, Basic realm=\"x\"")),
    ("negotiate-alone", Open, challenge!("Negotiate dG9rZW4=")),
    ("digest-alone", Open, challenge!("Digest realm=\"x\", nonce=\"n\"")),
    ("bearer-without-realm", Open, challenge!("Bearer service=\"s\"")),
    ("bearer-with-two-realms", Open, challenge!("Bearer realm=\"http://HOST/a\", realm=\"http://HOST/b\"")),
    ("bearer-with-no-url", Open, challenge!("Bearer realm=\"not a URL\"")),
    ("bearer-with-a-file", Open, challenge!("Bearer realm=\"file:///etc/shadow\"")),
    ("bearer-at-a-private-address", Open, challenge!("Bearer realm=\"https://10.0.0.1/token\"")),
    ("bearer-at-the-metadata-service", Open, challenge!("Bearer realm=\"http://169.254.169.254/latest\"")),
    ("unclosed-quote", Open, challenge!("Bearer realm=\"http://HOST/v2/REPOSITORY/token")),
    ("empty-challenge", Open, challenge!("")),
    ("twenty-challenges", Open, challenge!("A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T")),
    (
        "a-challenge-of-20-kb",
        Open,
        on!(Image, |asked, _| unauthorized(asked, &[&format!("Bearer realm=\"{}\"", "x".repeat(20 << 10))])),
    ),
    (
        "token-is-never-enough",
        Open,
        |asked, honest| if asked.is(Part::Token) { honest.send() } else { unauthorized(asked, &[BEARER]) },
    ),
    ("token-server-500", Open, token!(|_, _| Answer::new("500 Internal Server Error", "").send())),
    ("token-server-401", Open, token!(|asked, _| unauthorized(asked, &[BEARER]))),
    ("token-server-404", Open, token!(|_, _| Answer::new("404 Not Found", "").send())),
    ("token-server-redirects", Open, token!(|_, _| redirect("http://10.0.0.1/token"))),
    ("token-server-sends-html", Open, token!(|_, _| Answer::new("200 OK", "<html>").send())),
    ("no-token", Open, token!(|_, _| Answer::new("200 OK", "{}").send())),
    ("empty-token", Open, token!(|_, _| Answer::new("200 OK", r#"{"token": ""}"#).send())),
    ("token-is-a-number", Open, token!(|_, _| Answer::new("200 OK", r#"{"token": 1}"#).send())),
    ("token-with-a-header-in-it", Open, token!(|_, _| Answer::new("200 OK", r#"{"token": "t0ken\r\nx: y"}"#).send())),
    (
        "token-of-100-kb",
        Open,
        token!(|_, _| Answer::new("200 OK", json!({"token": "x".repeat(100 << 10)}).to_string()).send()),
    ),
    (
        "token-without-end",
        Open,
        token!(|_, _| raw("HTTP/1.1 200 OK\r\n\r\n", b"").then(Piece::Forever(vec![b' '; 64 << 10]))),
    ),
    (
        "token-that-lasts-for-ages",
        Open,
        token!(|_, _| Answer::new("200 OK", r#"{"access_token": "t0ken", "expires_in": 18446744073709551615}"#).send()),
    ),
    // HTTP itself.
    ("hangs-up", Open, on!(Image, |_, _| Sent(vec![]))),
    (
        "http-1-0",
        Open,
        on!(Any, |_, honest| raw(
            &head(&honest, "HTTP/1.0", &format!("content-length: {}\r\n", honest.body.len())),
            &honest.body
        )),
    ),
    ("http-1-0-until-it-closes", Open, on!(Any, |_, honest| raw(&head(&honest, "HTTP/1.0", ""), &honest.body))),
    ("http-0-9", Open, on!(Image, |_, honest| Sent::bytes(honest.body))),
    ("http-9-9", Open, on!(Image, |_, honest| raw(&head(&honest, "HTTP/9.9", ""), &honest.body))),
    ("speaks-tls", Open, on!(Image, |_, _| Sent::bytes(b"\x15\x03\x01\x00\x02\x02\x46".to_vec()))),
    ("no-length", Open, on!(Any, |_, honest| raw(&head(&honest, "HTTP/1.1", "connection: close\r\n"), &honest.body))),
    ("chunked", Open, on!(Any, |_, honest| in_one_chunk(&honest))),
    ("chunk-of-no-size", Open, on!(Image, |_, honest| chunked(&honest, "zz\r\n{}\r\n0\r\n\r\n"))),
    ("chunk-of-a-huge-size", Open, on!(Image, |_, honest| chunked(&honest, "ffffffffffffffff\r\n{}"))),
    ("chunks-that-do-not-end", Open, on!(Image, |_, honest| chunked(&honest, "2\r\n{}\r\n"))),
    (
        "length-and-chunks",
        Open,
        on!(Image, |_, honest| raw(
            &head(&honest, "HTTP/1.1", "content-length: 2\r\ntransfer-encoding: chunked\r\n"),
            b"2\r\n{}\r\n0\r\n\r\n"
        )),
    ),
    (
        "two-lengths",
        Open,
        on!(Image, |_, honest| raw(&head(&honest, "HTTP/1.1", "content-length: 2\r\ncontent-length: 3\r\n"), b"{}}")),
    ),
    (
        "negative-length",
        Open,
        on!(Image, |_, honest| raw(&head(&honest, "HTTP/1.1", "content-length: -1\r\n"), &honest.body)),
    ),
    ("header-of-a-mib", Open, on!(Image, |_, honest| honest.with("x", &"x".repeat(MIB)).send())),
    (
        "ten-thousand-headers",
        Open,
        on!(Image, |_, honest| (0..10_000)
            .fold(honest, |honest, number| honest.with(&format!("x{number}"), "y"))
            .send()),
    ),
    (
        "headers-without-end",
        Open,
        on!(Image, |_, _| raw("HTTP/1.1 200 OK\r\n", b"").then(Piece::Forever(b"x: y\r\n".repeat(1000)))),
    ),
    ("header-with-a-nul", Open, on!(Image, |_, honest| raw(&head(&honest, "HTTP/1.1", "x: a\0b\r\n"), &honest.body))),
    (
        "header-without-a-colon",
        Open,
        on!(Image, |_, honest| raw(&head(&honest, "HTTP/1.1", "nonsense\r\n"), &honest.body)),
    ),
    (
        "answers-twice",
        Open,
        on!(Image, |_, honest| {
            let (Sent(first), Sent(second)) = (honest.clone().send(), honest.send());
            Sent([first, second].concat())
        }),
    ),
    // Manifests.
    (
        "manifest-as-html",
        Open,
        on!(Image, |_, honest| honest.without("content-type").with("content-type", "text/html").send()),
    ),
    ("manifest-of-no-type", Open, on!(Image, |_, honest| honest.without("content-type").send())),
    (
        "manifest-of-a-type-with-parameters",
        Open,
        on!(Image, |_, honest| {
            honest.without("content-type").with("content-type", &format!("{}; charset=utf-8", media::MANIFEST)).send()
        }),
    ),
    (
        "manifest-of-docker-1",
        Open,
        on!(Image, |_, honest| {
            honest
                .without("content-type")
                .with("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
                .send()
        }),
    ),
    ("manifest-cut-off", Open, on!(Image, |_, honest| of_length(&honest, honest.body.len(), half(&honest)))),
    ("manifest-gzipped", Open, on!(Image, |_, honest| gzipped(honest).send())),
    (
        "manifest-empty",
        Open,
        on!(Image, |_, honest| Answer { body: vec![], ..honest }.without("docker-content-digest").send()),
    ),
    (
        "manifest-is-no-json",
        Open,
        on!(Image, |_, honest| Answer { body: b"no".to_vec(), ..honest }.without("docker-content-digest").send()),
    ),
    (
        "manifest-is-deep",
        Open,
        on!(Image, |_, honest| Answer { body: "[".repeat(100_000).into_bytes(), ..honest }
            .without("docker-content-digest")
            .send()),
    ),
    ("manifest-of-5-mib", Open, on!(Image, |_, honest| Answer { body: vec![b' '; 5 * MIB], ..honest }.send())),
    (
        "manifest-without-end",
        Open,
        on!(Image, |_, honest| raw(&head(&honest, "HTTP/1.1", ""), b"").then(Piece::Forever(vec![b' '; 64 << 10]))),
    ),
    (
        "digest-of-something-else",
        Open,
        on!(Image, |_, honest| {
            honest
                .without("docker-content-digest")
                .with("docker-content-digest", &format!("sha256:{}", "0".repeat(64)))
                .send()
        }),
    ),
    (
        "digest-of-another-kind",
        Open,
        on!(Image, |_, honest| {
            honest
                .without("docker-content-digest")
                .with("docker-content-digest", &format!("sha512:{}", "0".repeat(128)))
                .send()
        }),
    ),
    (
        "digest-is-nonsense",
        Open,
        on!(Image, |_, honest| honest
            .without("docker-content-digest")
            .with("docker-content-digest", "nonsense")
            .send()),
    ),
    ("no-digest", Open, on!(Image, |_, honest| honest.without("docker-content-digest").send())),
    ("manifest-changed", Open, on!(Image, |_, honest| changed(honest).send())),
    // Redirects.
    (
        "redirect-within",
        Open,
        on!(Blob, |asked, honest| {
            if asked.path.ends_with("?there") { honest.send() } else { redirect(&format!("{}?there", asked.path)) }
        }),
    ),
    ("redirect-to-itself", Open, on!(Image, |asked, _| redirect(&asked.path))),
    (
        "redirect-to-and-fro",
        Open,
        on!(Image, |asked, _| {
            let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, "b"));
            redirect(&format!("{path}?{}", if query == "a" { "b" } else { "a" }))
        }),
    ),
    ("redirect-nowhere", Open, status!(Image, "307 Temporary Redirect")),
    ("redirect-to-no-url", Open, on!(Image, |_, _| redirect("http://["))),
    ("redirect-to-a-file", Open, on!(Blob, |_, _| redirect("file:///etc/shadow"))),
    ("redirect-to-a-unix-socket", Open, on!(Blob, |_, _| redirect("unix:///run/bpfd/bpfd.sock"))),
    ("redirect-to-a-private-address", Open, on!(Blob, |_, _| redirect("https://10.0.0.1/blob"))),
    ("redirect-to-the-metadata-service", Open, on!(Blob, |_, _| redirect("http://169.254.169.254/latest"))),
    ("redirect-to-another-port", Open, on!(Blob, |_, _| redirect("http://127.0.0.1:1/blob"))),
    ("redirect-with-a-user", Open, on!(Blob, |asked, _| redirect(&format!("http://user:pass@{}/blob", asked.host)))),
    (
        "redirect-300",
        Open,
        on!(Image, |asked, _| Answer::new("300 Multiple Choices", "").with("location", &asked.path).send()),
    ),
    // Blobs.
    ("blob-404", Open, status!(Blob, "404 Not Found")),
    ("blob-403", Open, status!(Blob, "403 Forbidden")),
    ("blob-changed", Open, on!(Blob, |_, honest| changed(honest).send())),
    (
        "blob-too-long",
        Open,
        on!(Blob, |_, honest| in_one_chunk(&Answer { body: [honest.body.clone(), vec![0]].concat(), ..honest })),
    ),
    ("blob-too-short", Open, on!(Blob, |_, honest| in_one_chunk(&Answer { body: half(&honest).to_vec(), ..honest }))),
    ("blob-announced-as-huge", Open, on!(Blob, |_, honest| of_length(&honest, 1 << 50, &honest.body))),
    (
        "blob-without-end",
        Open,
        on!(Blob, |_, honest| raw(&head(&honest, "HTTP/1.1", ""), b"").then(Piece::Forever(vec![0; 64 << 10]))),
    ),
    (
        "blob-cut-off-once",
        Open,
        on!(Blob, |asked, honest| at_first(asked, honest, |honest| of_length(
            &honest,
            honest.body.len(),
            half(&honest)
        ))),
    ),
    ("blob-cut-off-each-time", Open, on!(Blob, |_, honest| of_length(&honest, honest.body.len(), half(&honest)))),
    (
        "blob-cut-off-and-no-ranges",
        Open,
        on!(Blob, |asked, honest| match asked.from() {
            None => of_length(&honest, honest.body.len(), half(&honest)),
            // Of a range only the rest is honest: the whole is what was sent first.
            Some(_) => Answer::new("416 Range Not Satisfiable", "").send(),
        }),
    ),
    (
        "blob-resumed-at-the-wrong-place",
        Open,
        on!(Blob, |asked, honest| match asked.from() {
            None => of_length(&honest, honest.body.len(), half(&honest)),
            Some(from) => {
                let range = format!("bytes {}-{}/{}", from + 7, from + 6 + honest.body.len(), from + honest.body.len());
                honest.without("content-range").with("content-range", &range).send()
            }
        }),
    ),
    (
        "blob-resumed-without-saying-where",
        Open,
        on!(Blob, |asked, honest| match asked.from() {
            None => of_length(&honest, honest.body.len(), half(&honest)),
            Some(_) => honest.without("content-range").send(),
        }),
    ),
    (
        "blob-resumed-in-other-units",
        Open,
        on!(Blob, |asked, honest| match asked.from() {
            None => of_length(&honest, honest.body.len(), half(&honest)),
            Some(_) => honest.without("content-range").with("content-range", "pages 1-2/3").send(),
        }),
    ),
    (
        "blob-resumed-with-other-bytes",
        Open,
        on!(Blob, |asked, honest| match asked.from() {
            None => of_length(&honest, honest.body.len(), half(&honest)),
            Some(_) => changed(honest).send(),
        }),
    ),
    (
        "blob-is-a-part-that-nobody-asked-for",
        Open,
        on!(Blob, |_, honest| {
            let body = half(&honest).to_vec();
            let range = format!("bytes 0-{}/{}", body.len() - 1, honest.body.len());
            Answer { status: "206 Partial Content".to_owned(), body, ..honest }.with("content-range", &range).send()
        }),
    ),
    ("blob-gzipped-on-the-way", Open, on!(Blob, |_, honest| gzipped(honest).send())),
    // What is beside an image: what could not be asked is never unsigned.
    ("no-referrers-api", Signed, status!(Referrers, "404 Not Found")),
    ("referrers-500", Signed, status!(Referrers, "500 Internal Server Error")),
    ("referrers-403", Signed, status!(Referrers, "403 Forbidden")),
    ("referrers-401", Signed, status!(Referrers, "401 Unauthorized")),
    ("referrers-400", Signed, status!(Referrers, "400 Bad Request")),
    ("referrers-hang-up", Signed, on!(Referrers, |_, _| Sent(vec![]))),
    (
        "referrers-are-html",
        Signed,
        on!(Referrers, |_, _| Answer::new("200 OK", "<html>").with("content-type", "text/html").send()),
    ),
    (
        "referrers-are-an-image",
        Signed,
        on!(Referrers, |_, _| {
            let image = json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": {"mediaType": "x/y", "digest": format!("sha256:{}", "0".repeat(64)), "size": 2}, "layers": []});
            Answer::new("200 OK", image.to_string()).with("content-type", media::MANIFEST).send()
        }),
    ),
    ("referrers-of-2-mib", Signed, on!(Referrers, |_, _| list(json!([])).with("x", "y").send_padded(2 * MIB))),
    ("referrers-next-is-the-same-page", Signed, on!(Referrers, |asked, _| page(asked, 1))),
    ("referrers-pages-without-end", Signed, on!(Referrers, |asked, _| page(asked, asked.path.len()))),
    (
        "referrers-next-is-elsewhere",
        Signed,
        on!(Referrers, |_, _| list(json!([])).with("link", "<http://10.0.0.1/next>; rel=\"next\"").send()),
    ),
    (
        "referrers-next-is-not-there",
        Signed,
        on!(Referrers, |asked, _| {
            if asked.path.contains('?') { Answer::new("500 Internal Server Error", "").send() } else { page(asked, 1) }
        }),
    ),
    (
        "referrers-name-what-is-not-there",
        Signed,
        on!(Referrers, |_, _| {
            let entry = json!({"mediaType": media::MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 2, "artifactType": media::BUNDLE});
            list(json!([entry])).send()
        }),
    ),
    (
        "fallback-tag-500",
        Signed,
        on!(Any, |asked, honest| match (asked.is(Part::Referrers), asked.is(Part::Fallback)) {
            (true, _) => Answer::new("404 Not Found", "").send(),
            (_, true) if asked.what.len() < 84 => Answer::new("500 Internal Server Error", "").send(),
            _ => honest.send(),
        }),
    ),
    (
        "fallback-tag-403",
        Signed,
        on!(Any, |asked, honest| match (asked.is(Part::Referrers), asked.is(Part::Fallback)) {
            (true, _) => Answer::new("404 Not Found", "").send(),
            (_, true) => Answer::new("403 Forbidden", "").send(),
            _ => honest.send(),
        }),
    ),
    ("signature-tag-404", Signed, status!(Signatures, "404 Not Found")),
    ("signature-tag-403", Signed, status!(Signatures, "403 Forbidden")),
    ("signature-tag-500", Signed, status!(Signatures, "500 Internal Server Error")),
    ("signature-tag-hangs-up", Signed, on!(Signatures, |_, _| Sent(vec![]))),
    (
        "signature-tag-is-html",
        Signed,
        on!(Signatures, |_, honest| honest.without("content-type").with("content-type", "text/html").send()),
    ),
    ("signature-tag-is-a-list", Signed, on!(Signatures, |_, _| list(json!([])).send())),
    ("signature-cut-off", Signed, on!(Signatures, |_, honest| of_length(&honest, honest.body.len(), half(&honest)))),
    ("unsigned-and-referrers-403", Unsigned, status!(Referrers, "403 Forbidden")),
];
