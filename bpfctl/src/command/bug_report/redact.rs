//! Takes secrets out of texts that leave the host. It must never keep a part of what it takes out, nor look at where a text is from.

use serde_json::Value;

/// What stands in the place of a secret.
pub(super) const TAKEN: &str = "(redacted)";

/// Keys whose values are secrets, in the files of registries and in what programs log.
const KEYS: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "identitytoken",
    "registrytoken",
    "access_token",
    "refresh_token",
    "auth",
    "authorization",
    "credential",
    "credentials",
];
/// Words before a secret in the header of a request.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

/// A text without secrets: values of keys that say so, user and password in URLs, credentials of requests, private keys.
pub(super) fn text(text: &str) -> String {
    let mut out = String::new();
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN ") && line.contains("PRIVATE KEY-----");
        if begins && !in_key {
            in_key = true;
            out.push_str(TAKEN);
            out.push('\n');
        }
        if !in_key {
            out.push_str(&urls(&values(&schemes(line))));
        }
        // A block in one line ends there.
        if in_key && line.contains("-----END ") {
            in_key = false;
        }
    }
    out
}

/// A document without secrets: as [`text`] for each text in it, and the values that globals were set to.
pub(super) fn document(value: &mut Value) {
    match value {
        Value::String(it) => *it = text(it),
        Value::Array(all) => all.iter_mut().for_each(document),
        Value::Object(fields) => {
            for (key, value) in fields {
                let secret = is_secret(key) && !value.is_object() && !value.is_array();
                match (key.as_str(), value) {
                    ("globals", Value::Array(globals)) => globals.iter_mut().for_each(global),
                    (_, value) if secret => *value = TAKEN.into(),
                    (_, value) => document(value),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A global may be a key or a secret of the program's.
fn global(global: &mut Value) {
    if let Some(value) = global.get_mut("value") {
        *value = TAKEN.into();
    }
}

/// `password`, and `REGISTRY_PASSWORD` too.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let is_end =
        |secret: &str| key.strip_suffix(secret).is_some_and(|before| before.is_empty() || before.ends_with('_'));
    KEYS.into_iter().any(is_end)
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// `Bearer abc`: the word after the scheme goes.
fn schemes(line: &str) -> String {
    let mut out = String::new();
    let mut taken = false;
    for word in line.split_inclusive(char::is_whitespace) {
        let bare = word.trim_end();
        if taken && !bare.is_empty() {
            out.push_str(TAKEN);
            out.push_str(word.get(bare.len()..).unwrap_or_default());
            taken = false;
            continue;
        }
        out.push_str(word);
        let last = bare.rsplit(|c| !is_of_word(c)).next().unwrap_or_default().to_ascii_lowercase();
        taken = SCHEMES.contains(&last.as_str()) || (taken && bare.is_empty());
    }
    out
}

/// `password = …` and `"auth": …`: the rest of the line goes, since nothing says where a secret ends.
fn values(line: &str) -> String {
    let mut from = 0;
    while let Some((start, end)) = next_word(line, from) {
        let word = line.get(start..end).unwrap_or_default();
        let rest = line.get(end..).unwrap_or_default();
        let after = rest.trim_start_matches(['"', '\'', '\\', ' ', '\t']);
        if is_secret(word) && after.starts_with(['=', ':']) {
            let kept = line.len() - after.len() + 1;
            let newline = if line.ends_with('\n') { "\n" } else { "" };
            return format!("{} {TAKEN}{newline}", line.get(..kept).unwrap_or_default());
        }
        from = end;
    }
    line.to_owned()
}

/// The next run of letters, digits and `_`.
fn next_word(line: &str, from: usize) -> Option<(usize, usize)> {
    let rest = line.get(from..)?;
    let start = from + rest.find(is_of_word)?;
    let length = line.get(start..)?.find(|c| !is_of_word(c)).unwrap_or(line.len() - start);
    Some((start, start + length))
}

/// `http://user:password@host`: what is before the `@` goes.
fn urls(line: &str) -> String {
    let mut parts = line.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("://");
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '?' | '#' | '`');
        let authority = part.get(..part.find(ends).unwrap_or(part.len())).unwrap_or_default();
        // A password may have a `/` in it that nobody escaped: then the last `@` of the word is what ends it.
        let word =
            part.get(..part.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(part.len())).unwrap_or_default();
        match authority.rfind('@').or_else(|| word.rfind('@').filter(|_| authority.contains(':'))) {
            Some(at) => {
                out.push_str(TAKEN);
                out.push_str(part.get(at..).unwrap_or_default());
            }
            None => out.push_str(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (before, after) in [
            ("https = \"http://me:pw@proxy:3128\"", "https = \"http://(redacted)@proxy:3128\""),
            ("http://a:b/c@proxy/x and http://b:c@d", "http://(redacted)@proxy/x and http://(redacted)@d"),
            ("https://registry/v2/a@sha256:00", "https://registry/v2/a@sha256:00"),
            ("password = \"pw\"\nhttp = true\n", "password = (redacted)\nhttp = true\n"),
            ("{\"auths\":{\"r\":{\"auth\":\"cHc=\"}}}", "{\"auths\":{\"r\":{\"auth\": (redacted)"),
            ("Authorization: Basic cHc=", "Authorization: (redacted)"),
            ("header `Bearer abc.def` sent", "header `Bearer (redacted) sent"),
            ("token_realms = [\"auth.example:443\"]", "token_realms = [\"auth.example:443\"]"),
            ("verdict pass, drop", "verdict pass, drop"),
            ("a\n-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\nb\n", "a\n(redacted)\nb\n"),
            ("REGISTRY_PASSWORD=pw", "REGISTRY_PASSWORD= (redacted)"),
            ("Token: x y z\nnext", "Token: (redacted)\nnext"),
        ] {
            assert_eq!(text(before), after);
        }
    }

    #[test]
    fn a_document_keeps_its_form() {
        let mut value = json!({
            "globals": [{ "name": "key", "value": "s3cret" }],
            "password": "s3cret",
            "cause": "no answer from http://me:s3cret@proxy",
            "proceedOn": { "xdp": ["pass"] },
            "number": 3,
        });
        document(&mut value);
        let expected = json!({
            "globals": [{ "name": "key", "value": TAKEN }],
            "password": TAKEN,
            "cause": "no answer from http://(redacted)@proxy",
            "proceedOn": { "xdp": ["pass"] },
            "number": 3,
        });
        assert_eq!(value, expected);
    }
}
