//! `WWW-Authenticate`: what a registry asks for (RFC 9110 §11.6.1, and distribution's "Token Authentication
//! Specification").
//!
//! Only parses. Must never decide who gets credentials.

/// What a registry wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
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

/// Reads one header. Our own scope is asked for, so `scope` is not read.
pub(super) fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    for (key, value) in parameters(rest)? {
        let slot = match key.to_ascii_lowercase().as_str() {
            "realm" => &mut realm,
            "service" => &mut service,
            _ => continue,
        };
        // Twice the same parameter: two readers could follow two realms.
        if slot.replace(value).is_some() {
            return None;
        }
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

/// `key=token, key="quoted, with \" inside"`; `None` if it is anything else.
fn parameters(mut rest: &str) -> Option<Vec<(&str, String)>> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(found);
        }
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                let (value, after) = after.split_at_checked(end)?;
                (value.to_owned(), after)
            }
        };
        found.push((key.trim(), value));
        rest = after;
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
    }

    #[test]
    fn the_forms_that_registries_send_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(parse(hub), bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        assert_eq!(parse(r#"bearer REALM="x" , service=y"#), bearer("x", Some("y")));
        assert_eq!(parse("Bearer realm=https://a/t,service=b"), bearer("https://a/t", Some("b")));
        assert_eq!(parse(r#"Bearer realm="a\"b""#), bearer("a\"b", None));
        assert_eq!(parse(r#"Basic realm="registry""#), Some(Challenge::Basic));
        assert_eq!(parse("basic"), Some(Challenge::Basic));
    }

    #[test]
    fn what_cannot_be_followed_is_not_read() {
        for header in [
            "",
            "Negotiate",
            "Bearer",
            r#"Bearer service="x""#,
            r#"Bearer realm="open"#,
            r#"Bearer realm="a",realm="b""#,
            "Bearer x",
        ] {
            assert_eq!(parse(header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(header in ".{0,60}") {
            let _read_or_not = parse(&format!("Bearer {header}"));
        }
    }
}
