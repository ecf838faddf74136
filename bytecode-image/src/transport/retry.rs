//! When a request is sent again, and after how long. Pure: the clock and the dice are the caller's.
//!
//! Must never send a request again that may have been done already, unless it is one that only reads.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use reqwest::{
    Method, Response, StatusCode,
    header::{DATE, HeaderMap, RETRY_AFTER},
};

use super::TransportError;
use crate::{limits, registries::Authority};

/// A pause before a request is sent again, for somebody who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Who is asked again.
    pub host: Authority,
    /// What went wrong.
    pub trouble: Trouble,
    /// For how long nothing is sent.
    pub pause: Duration,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, trouble, pause } = self;
        match trouble {
            Trouble::NotSent => write!(f, "cannot reach `{host}`")?,
            Trouble::Lost => write!(f, "the connection to `{host}` broke before an answer")?,
            Trouble::Status(status) => write!(f, "`{host}` cannot answer now: status {status}")?,
        }
        match pause.as_secs() {
            0 => f.write_str("; trying again"),
            seconds => write!(f, "; trying again in {} s", seconds + 1),
        }
    }
}

/// What may be over at the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There was no connection.
    NotSent,
    /// The connection broke before an answer: what was asked for may have been done.
    Lost,
    /// 429 or 5xx.
    Status(StatusCode),
}

impl Trouble {
    /// The trouble that an outcome is, if it is one that may pass.
    pub(super) fn of(outcome: &Result<Response, TransportError>) -> Option<Self> {
        match outcome {
            Ok(response) => may_come_back(response.status()).then(|| Self::Status(response.status())),
            Err(TransportError::Unreachable { source, .. } | TransportError::Proxy { source, .. }) => {
                Some(if source.is_connect() { Self::NotSent } else { Self::Lost })
            }
            Err(_) => None,
        }
    }

    /// Whether a request may be sent again: 429 and 503 say that nothing was done (RFC 6585 §4, RFC 9110 §15.6.4).
    pub(super) fn may_repeat(self, method: &Method) -> bool {
        match self {
            Self::NotSent | Self::Status(StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => true,
            Self::Lost | Self::Status(_) => method.is_safe(),
        }
    }
}

pub(super) fn may_come_back(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// The pause after the `tried`th try: what the registry asks for and a little more, or twice as long each time. `dice` spreads clients
/// that failed together.
pub(super) fn pause(tried: u32, asked: Option<Duration>, dice: u16) -> Duration {
    let part = f64::from(dice) / f64::from(u16::MAX);
    match asked {
        Some(asked) => asked + limits::FIRST_PAUSE.mul_f64(part),
        None => {
            let whole = limits::FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(tried.saturating_sub(1)));
            whole.mul_f64(0.5 + part / 2.0)
        }
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at most [`limits::RETRY_AFTER`]. A date is compared with the registry's own
/// clock, if it tells the time.
pub(super) fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let asked = if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        // More than 2^64 seconds is the most that is waited, too.
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        let theirs = headers.get(DATE).and_then(|value| date(value.to_str().ok()?)).unwrap_or(now);
        // A date in the past asks for no pause.
        date(text)?.duration_since(theirs).unwrap_or_default()
    };
    Some(asked.min(limits::RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_repeated_only_if_it_reads() {
        let reads = [Method::GET, Method::HEAD];
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let status = |code| Trouble::Status(StatusCode::from_u16(code).unwrap());
        for trouble in [Trouble::NotSent, status(429), status(503)] {
            assert!(reads.iter().chain(&writes).all(|method| trouble.may_repeat(method)), "{trouble:?}");
        }
        for trouble in [Trouble::Lost, status(500), status(502), status(504)] {
            assert!(reads.iter().all(|method| trouble.may_repeat(method)), "{trouble:?}");
            assert!(!writes.iter().any(|method| trouble.may_repeat(method)), "{trouble:?}");
        }
    }

    #[test]
    fn pauses_double_and_are_spread() {
        let milliseconds = |tried, dice| pause(tried, None, dice).as_millis();
        assert_eq!([1, 2, 3].map(|tried| milliseconds(tried, u16::MAX)), [200, 400, 800]);
        assert_eq!([1, 2, 3].map(|tried| milliseconds(tried, 0)), [100, 200, 400]);
        let asked = Some(Duration::from_secs(3));
        assert_eq!([0, u16::MAX].map(|dice| pause(1, asked, dice).as_millis()), [3000, 3200], "never earlier");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // One hour after the registry's clock.
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 09:49:37 GMT").unwrap();
        let asked = |text: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            headers.extend(date.map(|date| (DATE, date.parse().unwrap())));
            asked(&headers, now).map(|asked| asked.as_secs())
        };
        for (text, expected) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("3600", Some(10)),
            ("99999999999999999999999", Some(10)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("Sun, 06 Nov 1994 09:49:41 GMT", Some(4)),
            ("Sunday, 06-Nov-94 09:49:41 GMT", Some(4)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(10)),
        ] {
            assert_eq!(asked(text, None), expected, "{text}");
        }
        let theirs = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:40 GMT", theirs), Some(3), "by the registry's clock");
        assert_eq!(asked("Sun, 06 Nov 1994 09:49:39 GMT", Some("nonsense")), Some(2));
    }
}
