//! `WWW-Authenticate`: the challenges that a registry offers, and the best one that this crate can answer (RFC 9110 §11.6.1, and
//! distribution's "Token Authentication Specification"). `spec/vectors/challenges.json` has examples.
//!
//! Only parses and chooses. Must never decide who gets credentials.

use std::{fmt, iter::Peekable, str::Chars};

use crate::limits;

/// What a registry wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from a token server.
    Bearer {
        /// The token server's URL, not yet checked.
        realm: String,
        /// The name that the token server knows the registry by.
        service: Option<String>,
    },
}

/// Why none of the challenges can be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// There is no challenge at all.
    #[error("it offers none")]
    Missing,
    /// More text than any registry sends.
    #[error("its `WWW-Authenticate` headers have more than {} bytes", limits::CHALLENGE_BYTES)]
    TooLong,
    /// More challenges than any registry sends.
    #[error("it offers more than {} challenges", limits::CHALLENGES)]
    TooMany,
    /// Only schemes that are not known here.
    #[error("it offers only {0}")]
    Schemes(Schemes),
    /// A header that is not a list of challenges, or a Bearer challenge that names no realm, or names two.
    #[error("its `WWW-Authenticate` header cannot be read")]
    Malformed,
}

/// Names of authentication schemes, in the order in which they were offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schemes(Vec<String>);

impl fmt::Display for Schemes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, scheme) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            let short: String = scheme.chars().take(32).collect();
            write!(f, "{comma}`{short}`")?;
        }
        Ok(())
    }
}

/// One challenge of a header. Our own scope is asked for and Basic needs no realm, so of the parameters only two are kept.
#[derive(Debug, Default)]
struct Offer {
    scheme: String,
    realm: Option<String>,
    service: Option<String>,
    /// A parameter that is kept came twice: two readers could follow two realms.
    ambiguous: bool,
}

/// The best challenge of all `WWW-Authenticate` headers of an answer: Bearer, else Basic. A header that cannot be read to its end is
/// passed over if another one has a challenge that can be answered.
///
/// # Errors
/// [`ChallengeError`].
pub fn choose<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Result<Challenge, ChallengeError> {
    let (mut offers, mut malformed, mut left) = (Vec::new(), false, limits::CHALLENGE_BYTES);
    for header in headers {
        left = left.checked_sub(header.len()).ok_or(ChallengeError::TooLong)?;
        // What is not UTF-8 can only be text for people, such as the realm of Basic.
        match offers_of(&String::from_utf8_lossy(header)) {
            Some(found) => offers.extend(found),
            None => malformed = true,
        }
        if offers.len() > limits::CHALLENGES {
            return Err(ChallengeError::TooMany);
        }
    }
    let is = |offer: &Offer, scheme: &str| offer.scheme.eq_ignore_ascii_case(scheme);
    let bearer = offers.iter().filter(|offer| is(offer, "bearer") && !offer.ambiguous);
    let bearer = bearer.filter_map(|Offer { realm, service, .. }| Some((realm.clone()?, service.clone()))).next();
    if let Some((realm, service)) = bearer {
        return Ok(Challenge::Bearer { realm, service });
    }
    if offers.iter().any(|offer| is(offer, "basic")) {
        return Ok(Challenge::Basic);
    }
    if malformed || offers.iter().any(|offer| is(offer, "bearer")) {
        return Err(ChallengeError::Malformed);
    }
    match offers.is_empty() {
        true => Err(ChallengeError::Missing),
        false => Err(ChallengeError::Schemes(Schemes(offers.into_iter().map(|offer| offer.scheme).collect()))),
    }
}

/// The challenges of one header; `None` if it is anything else.
fn offers_of(header: &str) -> Option<Vec<Offer>> {
    let mut text = Text(header.chars().peekable());
    let mut offers: Vec<Offer> = Vec::new();
    loop {
        text.skip(|c| is_space(c) || c == ',');
        if text.0.peek().is_none() {
            return Some(offers);
        }
        let name = text.token()?;
        match (text.has_value(), offers.last_mut()) {
            (true, Some(offer)) => {
                let value = text.value()?;
                offer.parameter(&name, value);
            }
            // A parameter of nothing.
            (true, None) => return None,
            (false, _) => {
                text.token68();
                offers.push(Offer { scheme: name, ..Offer::default() });
            }
        }
        // A name or a value ends here, or the next thing is no part of the grammar.
        if text.0.peek().is_some_and(|next| !is_space(*next) && *next != ',') {
            return None;
        }
    }
}

impl Offer {
    fn parameter(&mut self, name: &str, value: String) {
        let kept = match name.to_ascii_lowercase().as_str() {
            "realm" => &mut self.realm,
            "service" => &mut self.service,
            _ => return,
        };
        self.ambiguous |= kept.replace(value).is_some();
    }
}

struct Text<'a>(Peekable<Chars<'a>>);

impl Text<'_> {
    fn skip(&mut self, which: impl Fn(char) -> bool) {
        while self.0.next_if(|c| which(*c)).is_some() {}
    }

    fn take(&mut self, which: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.0.next_if(|c| which(*c))).collect()
    }

    /// The name of a scheme or a parameter.
    fn token(&mut self) -> Option<String> {
        Some(self.take(is_token)).filter(|token| !token.is_empty())
    }

    /// Passes `=`, with the spaces that RFC 9110 tolerates around it; false, and nothing is passed, if something else follows.
    fn has_value(&mut self) -> bool {
        let mut ahead = Text(self.0.clone());
        ahead.skip(is_space);
        if ahead.0.next() != Some('=') {
            return false;
        }
        ahead.skip(is_space);
        self.0 = ahead.0;
        true
    }

    /// A quoted string or a token. Some registries leave out the quotes around a URL, so a token is all up to a comma or a space.
    fn value(&mut self) -> Option<String> {
        if self.0.next_if_eq(&'"').is_none() {
            let value = self.take(|c| !is_space(c) && !c.is_control() && c != ',' && c != '"');
            return Some(value).filter(|value| !value.is_empty());
        }
        let mut value = String::new();
        loop {
            let next = match self.0.next()? {
                '"' => return Some(value),
                '\\' => self.0.next()?,
                other => other,
            };
            if next.is_control() && next != '\t' {
                return None;
            }
            value.push(next);
        }
    }

    /// Passes the token68 of a scheme, as Negotiate has one. It ends at a comma or with the header; a parameter does not.
    fn token68(&mut self) {
        let mut ahead = Text(self.0.clone());
        ahead.skip(is_space);
        let text = ahead.take(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        ahead.skip(|c| c == '=');
        ahead.skip(is_space);
        if !text.is_empty() && ahead.0.peek().is_none_or(|next| *next == ',') {
            self.0 = ahead.0;
        }
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_many_challenges_are_refused_before_they_are_chosen_from() {
        let long = format!("Basic realm=\"{}\"", "x".repeat(limits::CHALLENGE_BYTES));
        assert_eq!(choose([long.as_bytes()]), Err(ChallengeError::TooLong));
        let half = format!("Basic realm=\"{}\"", "x".repeat(limits::CHALLENGE_BYTES / 2));
        assert_eq!(choose([half.as_bytes(); 2]), Err(ChallengeError::TooLong));
        assert_eq!(choose([vec!["Basic"; limits::CHALLENGES + 1].join(",").as_bytes()]), Err(ChallengeError::TooMany));
        assert_eq!(choose([b"Basic".as_slice(); limits::CHALLENGES + 1]), Err(ChallengeError::TooMany));
        assert_eq!(choose([vec!["Basic"; limits::CHALLENGES].join(",").as_bytes()]), Ok(Challenge::Basic));
    }

    #[test]
    fn text_that_is_not_utf8_hides_no_challenge() {
        assert_eq!(choose([b"Basic realm=\"caf\xe9\"".as_slice()]), Ok(Challenge::Basic));
        assert_eq!(choose([b"caf\xe9, Basic".as_slice()]), Err(ChallengeError::Malformed));
        assert_eq!(choose([b"caf\xe9".as_slice(), b"Basic"]), Ok(Challenge::Basic));
    }
}
