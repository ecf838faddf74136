//! Canonical JSON (RFC 8785), for integers only: the same label is the same bytes, whoever writes it.
//!
//! Written by hand because the order of keys must not depend on a feature that any crate of the build may switch on
//! (`serde_json/preserve_order`).

use serde_json::Value;

/// Why a value has no canonical form here.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// A fraction, an exponent, or an integer that a double cannot hold.
    #[error("`{0}` is not an integer within 2^53, the only numbers that every reader of JSON agrees on")]
    Number(serde_json::Number),
    /// Something that JSON cannot say.
    #[error("value has no JSON form")]
    Json(#[source] serde_json::Error),
}

/// The greatest integer that every JSON reader keeps (RFC 7493 §2.2).
pub(super) const MAX_SAFE: u64 = (1 << 53) - 1;

/// Writes a value: no blanks, keys in the order of their UTF-16 code units (RFC 8785 §3.2.3).
///
/// # Errors
/// [`CanonicalError`].
pub fn canonical(value: &Value) -> Result<String, CanonicalError> {
    let mut text = String::new();
    write(value, &mut text)?;
    Ok(text)
}

fn write(value: &Value, text: &mut String) -> Result<(), CanonicalError> {
    match value {
        Value::Number(number) => {
            let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if size.is_none_or(|size| size > MAX_SAFE) {
                return Err(CanonicalError::Number(number.clone()));
            }
            text.push_str(&number.to_string());
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text)?;
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            text.push('{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                scalar(&Value::from(key.as_str()), text)?;
                text.push(':');
                write(value, text)?;
            }
            text.push('}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => scalar(value, text)?,
    }
    Ok(())
}

/// Strings are escaped by `serde_json` as RFC 8785 §3.2.2.2 asks: only what JSON requires, in the short form.
fn scalar(value: &Value, text: &mut String) -> Result<(), CanonicalError> {
    text.push_str(&serde_json::to_string(value).map_err(CanonicalError::Json)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        assert_eq!(canonical(&serde_json::from_str(input).unwrap()).unwrap(), expected);
    }

    #[test]
    fn keys_are_sorted_by_utf16_and_blanks_are_gone() {
        check(r#"{ "b" : [1, -2, true], "a" : { "z": null, "y": "" } }"#, r#"{"a":{"y":"","z":null},"b":[1,-2,true]}"#);
        // RFC 8785 §3.2.3: U+1F600 has the code units d83d de00, which come before fb33.
        check("{\"\u{fb33}\":1,\"\u{1f600}\":2}", "{\"\u{1f600}\":2,\"\u{fb33}\":1}");
    }

    #[test]
    fn strings_are_escaped_in_the_short_form() {
        check(r#""\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/""#, r#""€$\u000f\nA'B\"\\\\\"/""#);
    }

    #[test]
    fn numbers_that_readers_disagree_on_are_refused() {
        for number in ["1.5", "1e3", "9007199254740992", "-9007199254740992", "18446744073709551615"] {
            let error = canonical(&serde_json::from_str(number).unwrap()).unwrap_err();
            assert!(matches!(error, CanonicalError::Number(_)), "{number}");
        }
        check("9007199254740991", "9007199254740991");
    }
}
