//! Requests: routes of distribution-spec 1.1 by hand, since repositories have slashes, and the lies of each mode.

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{
        HeaderMap, Method, Response, Uri,
        header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, RANGE, REFERER},
    },
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{
    Access, Mode, Referrers, Seen, Shared,
    answer::{answer, counted, cut_off, refuse, stall, stream},
};
use crate::{digest::Digest, media};

/// The token that opens every door.
const TOKEN: &str = "token-of-the-test-registry";
/// Pieces of 64 KiB in 1 GiB.
const GIBIBYTE: usize = 1 << 14;

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let app = Router::new().fallback(handle).layer(DefaultBodyLimit::max(256 << 20)).with_state(shared);
    axum::serve(listener, app).await
}

/// A request, taken apart.
struct Request<'a> {
    shared: &'a Arc<Shared>,
    method: Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    repo: &'a str,
    mode: Mode,
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    shared.seen().push(Seen {
        method: method.to_string(),
        path: uri.to_string(),
        authorization: header(AUTHORIZATION),
        referer: header(REFERER),
        range: header(RANGE),
    });
    if uri.path() == "/token" {
        return token(&shared, &method, header(AUTHORIZATION).as_deref(), &body);
    }
    let Some(rest) = uri.path().strip_prefix("/v2/") else { return refuse(404, "UNSUPPORTED") };
    let kinds = ["/manifests/", "/blobs/uploads/", "/blobs/", "/referrers/", "/tags/"];
    let parts = kinds.iter().find_map(|kind| rest.split_once(kind).map(|(repo, name)| (*kind, repo, name)));
    let (kind, repo, name) = parts.unwrap_or(("", "", ""));
    let request = Request { mode: shared.mode(repo), shared: &shared, method, uri: &uri, headers: &headers, repo };
    shared.waiting(|number| number + 1);
    if request.mode == Mode::Slow {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    shared.waiting(|number| number - 1);
    if let Some(refusal) = request.refused(name) {
        return refusal;
    }
    let response = match kind {
        "/manifests/" => request.manifest(name, &body),
        "/blobs/uploads/" => request.upload(name, &body),
        "/blobs/" => request.blob(name),
        "/referrers/" => request.referrers(name),
        "/tags/" => answer(200, &[], json!({"name": repo, "tags": shared.content().tags(repo)}).to_string()),
        _ => answer(200, &[("docker-distribution-api-version", "registry/2.0")], ""),
    };
    match request.mode {
        Mode::Chunked if request.method == Method::GET => {
            response.map(|body| Body::from_stream(body.into_data_stream()))
        }
        _ => response,
    }
}

/// The token server: everybody, or whoever has the password.
fn token(shared: &Shared, method: &Method, authorization: Option<&str>, form: &[u8]) -> Response<Body> {
    let welcome = match &shared.options.access {
        Access::IdentityToken(token) => {
            let form = String::from_utf8_lossy(form);
            let has = |pair: &str| form.split('&').any(|sent| sent == pair);
            let token = has(&format!("refresh_token={token}")) && authorization.is_none();
            if *method == Method::POST && token && has("grant_type=refresh_token") && has("service=test") {
                let answer_of = json!({"access_token": TOKEN, "refresh_token": "another"}).to_string();
                return answer(200, &[("content-type", "application/json")], answer_of);
            }
            false
        }
        Access::Bearer(user, password) => authorization == Some(&basic(user, password)),
        Access::Open | Access::Basic(..) | Access::AnonymousBearer => true,
    };
    if welcome {
        answer(200, &[("content-type", "application/json")], json!({"token": TOKEN, "expires_in": 300}).to_string())
    } else {
        refuse(401, "UNAUTHORIZED")
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

impl Request<'_> {
    /// What access control and the modes that answer everything say.
    fn refused(&self, name: &str) -> Option<Response<Body>> {
        let sent = self.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let unavailable = |status, after: &str| Some(answer(status, &[("retry-after", after)], ""));
        let challenge = |challenge: &str| Some(answer(401, &[("www-authenticate", challenge)], ""));
        let realm = |url: &str| format!("Bearer realm=\"{url}\",service=\"test\",scope=\"repository:x:pull,push\"");
        match &self.mode {
            Mode::Realm(url) => return challenge(&realm(url)),
            Mode::Challenges(offers) => {
                let headers: Vec<_> = offers.iter().map(|offer| ("www-authenticate", offer.as_str())).collect();
                return Some(answer(401, &headers, ""));
            }
            Mode::Status(status) => return Some(refuse(*status, "ON_PURPOSE")),
            Mode::EndlessError => return Some(answer(500, &[], stream(self.shared, b' ', None))),
            Mode::SignaturesStatus(status) if name.ends_with(".sig") => return Some(refuse(*status, "ON_PURPOSE")),
            Mode::Fails(status, times) if self.fails(*times) => return unavailable(*status, "0"),
            Mode::FailsUntil(status, times, date) if self.fails(*times) => return unavailable(*status, date),
            Mode::FailsWrites(status, times) if !self.method.is_safe() && self.fails(*times) => {
                return unavailable(*status, "0");
            }
            _ => {}
        }
        match &self.shared.options.access {
            Access::Basic(user, password) if sent != Some(&basic(user, password)) => challenge("Basic realm=\"test\""),
            Access::Bearer(..) | Access::IdentityToken(_) | Access::AnonymousBearer
                if sent != Some(&format!("Bearer {TOKEN}")) =>
            {
                challenge(&realm(&format!("http://{}/token", self.shared.address)))
            }
            Access::Open
            | Access::Basic(..)
            | Access::Bearer(..)
            | Access::IdentityToken(_)
            | Access::AnonymousBearer => None,
        }
    }

    /// Whether this is one of the first requests.
    fn fails(&self, times: u32) -> bool {
        let mut content = self.shared.content();
        let answered = content.answered.entry(self.repo.to_owned()).or_default();
        *answered += 1;
        *answered <= times
    }

    fn manifest(&self, name: &str, body: &Bytes) -> Response<Body> {
        if self.method == Method::PUT {
            return self.put_manifest(name, body);
        }
        if self.method == Method::DELETE {
            self.shared.content().delete(self.repo, name);
            return answer(202, &[], "");
        }
        let get = self.method == Method::GET;
        let of_type = [("content-type", media::MANIFEST)];
        match &self.mode {
            Mode::HugeManifest if get => return answer(200, &of_type, stream(self.shared, b' ', Some(GIBIBYTE))),
            Mode::HugeManifestAnnounced if get => {
                let headers = [("content-type", media::MANIFEST), ("content-length", "1073741824")];
                return answer(200, &headers, stream(self.shared, b' ', Some(GIBIBYTE)));
            }
            Mode::RedirectManifests(url) => return answer(307, &[("location", url)], ""),
            Mode::RedirectForever => return answer(302, &[("location", self.uri.path())], ""),
            _ => {}
        }
        let mut content = self.shared.content();
        let answered = content.answered.entry(self.repo.to_owned()).or_default();
        *answered += 1;
        let time = *answered;
        let Some((digest, (media_type, bytes))) = content.manifest(self.repo, name) else {
            return refuse(404, "MANIFEST_UNKNOWN");
        };
        let index = matches!(media_type.as_str(), media::INDEX | media::DOCKER_INDEX);
        let (mut bytes, mut digest) = (bytes.clone(), digest.to_string());
        match self.mode {
            Mode::TamperedManifest if !index => bytes.push(b' '),
            Mode::TamperedIndex if index => bytes.push(b' '),
            Mode::Changing => {
                bytes.extend(std::iter::repeat_n(b'\n', usize::try_from(time).unwrap_or_default()));
                digest = Digest::of(&bytes).to_string();
            }
            _ => {}
        }
        let media_type = if self.mode == Mode::WrongContentType { "text/html" } else { media_type };
        let mut headers = vec![("content-type", media_type)];
        if self.mode != Mode::NoDigestHeader {
            headers.push(("docker-content-digest", &digest));
        }
        let length = bytes.len().to_string();
        if get {
            answer(200, &headers, counted(self.shared, bytes))
        } else {
            headers.push(("content-length", &length));
            answer(200, &headers, "")
        }
    }

    fn put_manifest(&self, name: &str, body: &Bytes) -> Response<Body> {
        let digest = Digest::of(body);
        let by_digest = name.parse::<Digest>();
        let media_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let inside: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let differs = inside.get("mediaType").is_some_and(|inside| inside != media_type);
        if by_digest.as_ref().is_ok_and(|named| *named != digest) || differs || !inside.is_object() {
            return refuse(400, "MANIFEST_INVALID");
        }
        let tag = by_digest.is_err().then_some(name);
        self.shared.content().put_manifest(self.repo, tag, media_type, body.to_vec());
        let location = format!("/v2/{}/manifests/{digest}", self.repo);
        answer(201, &[("location", &location), ("docker-content-digest", &digest.to_string())], "")
    }

    fn blob(&self, name: &str) -> Response<Body> {
        let content = self.shared.content();
        let Some((digest, bytes)) = name.parse().ok().and_then(|digest| Some((digest, content.blob(digest)?.clone())))
        else {
            return refuse(404, "BLOB_UNKNOWN");
        };
        let config = content.is_config(digest);
        drop(content);
        let named = digest.to_string();
        let mut headers = vec![("docker-content-digest", named.as_str()), ("content-type", "application/octet-stream")];
        if self.method == Method::HEAD {
            let length = bytes.len().to_string();
            headers.push(("content-length", &length));
            return answer(200, &headers, "");
        }
        let mut bytes = bytes;
        let half = |bytes: &[u8]| bytes.get(..bytes.len().div_ceil(2)).unwrap_or_default().to_vec();
        match &self.mode {
            Mode::TamperedConfig if config => flip_last(&mut bytes),
            Mode::TamperedLayer if !config => flip_last(&mut bytes),
            Mode::EndlessBlob => return answer(200, &headers, stream(self.shared, 0, None)),
            Mode::LongBlob => {
                bytes.push(0);
                return answer(200, &headers, cut_short(self.shared, bytes));
            }
            Mode::ShortBlob => {
                bytes.pop();
                return answer(200, &headers, cut_short(self.shared, bytes));
            }
            Mode::Stall => return answer(200, &headers, stall()),
            Mode::RedirectBlobs(url) => return answer(307, &[("location", url)], ""),
            Mode::CutOffNoRanges => {
                let mut content = self.shared.content();
                let answered = content.answered.entry(named.clone()).or_default();
                *answered += 1;
                if *answered == 1 {
                    return answer(200, &headers, cut_off(self.shared, half(&bytes)));
                }
                return answer(200, &headers, counted(self.shared, bytes));
            }
            _ => {}
        }
        let range =
            self.headers.get(RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split('-').next());
        let from = range.and_then(|from| from.parse::<usize>().ok());
        let rest = bytes.get(from.unwrap_or_default()..).unwrap_or_default().to_vec();
        let part = from.map(|from| format!("bytes {from}-{}/{}", bytes.len().saturating_sub(1), bytes.len()));
        let status = if part.is_some() { 206 } else { 200 };
        headers.extend(part.as_deref().map(|part| (CONTENT_RANGE.as_str(), part)));
        if self.mode == Mode::AlwaysCutOff || self.mode == Mode::CutOff && from.is_none() {
            return answer(status, &headers, cut_off(self.shared, half(&rest)));
        }
        answer(status, &headers, counted(self.shared, rest))
    }

    fn upload(&self, name: &str, body: &Bytes) -> Response<Body> {
        let mut content = self.shared.content();
        let place = |id: u64| format!("/v2/{}/blobs/uploads/{id}", self.repo);
        if self.method == Method::POST {
            let id = content.begin_upload();
            return answer(202, &[("location", &place(id)), ("range", "0-0")], "");
        }
        let Ok(id) = name.parse() else { return refuse(404, "BLOB_UPLOAD_UNKNOWN") };
        let Some(upload) = content.upload(id) else { return refuse(404, "BLOB_UPLOAD_UNKNOWN") };
        upload.extend_from_slice(body);
        if self.method == Method::PATCH {
            let range = format!("0-{}", upload.len().saturating_sub(1));
            return answer(202, &[("location", &place(id)), ("range", &range)], "");
        }
        let query = self.uri.query().unwrap_or_default().replace("%3A", ":");
        let wanted = query.split('&').find_map(|pair| pair.strip_prefix("digest=")).map(str::to_owned);
        let bytes = content.end_upload(id).unwrap_or_default();
        let digest = Digest::of(&bytes).to_string();
        if wanted.as_deref() != Some(&digest) {
            return refuse(400, "DIGEST_INVALID");
        }
        content.put_blob(bytes);
        let location = format!("/v2/{}/blobs/{digest}", self.repo);
        answer(201, &[("location", &location), ("docker-content-digest", &digest)], "")
    }

    fn referrers(&self, subject: &str) -> Response<Body> {
        match self.shared.options.referrers {
            Referrers::Absent => refuse(404, "UNSUPPORTED"),
            Referrers::Listed => {
                let manifests = self.shared.content().referrers(self.repo, subject);
                let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests});
                answer(200, &[("content-type", media::INDEX)], counted(self.shared, index.to_string().into_bytes()))
            }
        }
    }
}

fn flip_last(bytes: &mut [u8]) {
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
}

/// Chunked, so that no `Content-Length` gives the wrong length away.
fn cut_short(shared: &Shared, bytes: Vec<u8>) -> Body {
    let counted = counted(shared, bytes);
    Body::from_stream(counted.into_data_stream())
}
