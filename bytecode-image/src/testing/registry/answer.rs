//! Bodies that no honest server sends: without end, cut off, or never starting.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, Response, StatusCode},
};
use tokio_stream::StreamExt;

use super::Shared;

/// One piece of a body without end.
const PIECE: usize = 64 << 10;

/// A response with these headers.
pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

/// An error as distribution-spec has it.
pub(super) fn refuse(status: u16, code: &str) -> Response<Body> {
    let body = serde_json::json!({"errors": [{"code": code, "message": code.to_lowercase().replace('_', " ")}]});
    answer(status, &[("content-type", "application/json")], body.to_string())
}

/// Bytes in one piece, counted.
pub(super) fn counted(shared: &Shared, bytes: Vec<u8>) -> Body {
    count(shared, bytes.len());
    Body::from(bytes)
}

/// `pieces` pieces of a byte, chunked, counted as they are taken; without end if there is no number.
pub(super) fn stream(shared: &Arc<Shared>, byte: u8, pieces: Option<usize>) -> Body {
    let shared = Arc::clone(shared);
    let piece = Bytes::from(vec![byte; PIECE]);
    let endless = tokio_stream::iter(std::iter::repeat(piece)).map(move |piece| {
        count(&shared, piece.len());
        Ok::<_, io::Error>(piece)
    });
    match pieces {
        Some(pieces) => Body::from_stream(endless.take(pieces)),
        None => Body::from_stream(endless),
    }
}

/// Some bytes, then the connection breaks.
pub(super) fn cut_off(shared: &Shared, bytes: Vec<u8>) -> Body {
    count(shared, bytes.len());
    let breaks = io::Error::new(io::ErrorKind::ConnectionReset, "cut off on purpose");
    // One turn of the runtime before each, or the server notices the break before it has sent the headers.
    let pieces = tokio_stream::iter([Ok(Bytes::from(bytes)), Err(breaks)]);
    Body::from_stream(pieces.then(|piece| async {
        tokio::task::yield_now().await;
        piece
    }))
}

/// Nothing, ever.
pub(super) fn stall() -> Body {
    Body::from_stream(tokio_stream::pending::<io::Result<Bytes>>())
}

fn count(shared: &Shared, bytes: usize) {
    shared.sent.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::SeqCst);
}
