//! Logging in and out: an auth file's text with one entry more or less. All else in it stays as it is.
//!
//! Must never write a file.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{AuthError, AuthFile, Secret, plain_key};
use crate::reference::Registry;

type Object = serde_json::Map<String, Value>;

/// The text with a registry's user and password in place of what it has for the registry.
///
/// # Errors
/// [`AuthError`] if the text is no auth file, or leaves this registry to a helper: that would be used in place of the entry.
pub fn with_password(
    text: &str,
    registry: &Registry,
    user: &str,
    password: &Secret<String>,
) -> Result<Secret<String>, AuthError> {
    let (mut root, mut auths) = parts(text)?;
    remove(&mut auths, registry);
    let auth = STANDARD.encode(format!("{user}:{}", password.reveal()));
    auths.insert(registry.to_string(), json!({ "auth": auth }));
    root.insert("auths".to_owned(), auths.into());
    let text = written(root)?;
    let names = [registry.to_string()];
    let helper = AuthFile::parse(text.reveal().as_bytes())?;
    match helper.only_one(&names, "").as_ref().and_then(|only| only.helper(&names)) {
        Some(helper) => Err(AuthError::HasHelper(registry.to_string(), helper.program())),
        None => Ok(text),
    }
}

/// The text without what it has for a registry; `None` if it has nothing.
///
/// # Errors
/// [`AuthError`] if the text is no auth file.
pub fn without(text: &str, registry: &Registry) -> Result<Option<Secret<String>>, AuthError> {
    let (mut root, mut auths) = parts(text)?;
    if !remove(&mut auths, registry) {
        return Ok(None);
    }
    root.insert("auths".to_owned(), auths.into());
    written(root).map(Some)
}

/// The whole, and its entries.
fn parts(text: &str) -> Result<(Object, Object), AuthError> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    AuthFile::parse(text.as_bytes())?;
    // Both are objects, or it would not have been read.
    let mut root: Object = serde_json::from_str(text).map_err(|error| AuthError::json(&error))?;
    let auths = match root.remove("auths") {
        Some(Value::Object(auths)) => auths,
        Some(_) | None => Object::new(),
    };
    Ok((root, auths))
}

/// Whether there was something to remove.
fn remove(auths: &mut Object, registry: &Registry) -> bool {
    let before = auths.len();
    auths.retain(|key, _| plain_key(key) != registry.to_string());
    auths.len() < before
}

fn written(root: Object) -> Result<Secret<String>, AuthError> {
    let text = serde_json::to_string_pretty(&Value::from(root)).map_err(|error| AuthError::json(&error))?;
    Ok(Secret::new(text + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Credentials;

    #[test]
    fn an_entry_is_added_replaced_and_removed_and_all_else_stays() {
        let registry: Registry = "r.example".parse().unwrap();
        let secret = |text: &str| Secret::new(text.to_owned());
        let text =
            r#"{"auths":{"https://r.example/v1/":{"auth":"b2xkOjE="},"r.example/x":{"auth":"eDox"}},"more":[1]}"#;
        let text = with_password(text, &registry, "me", &secret("a:b")).unwrap();
        let file = AuthFile::parse(text.reveal().as_bytes()).unwrap();
        assert_eq!(file.lookup("r.example", "y"), Some(&Credentials::password("me", "a:b")));
        assert_eq!(file.lookup("r.example", "x"), Some(&Credentials::password("x", "1")));
        assert!(text.reveal().contains("\"more\"") && !text.reveal().contains("https://"));
        let text = without(text.reveal(), &registry).unwrap().unwrap();
        assert_eq!(AuthFile::parse(text.reveal().as_bytes()).unwrap().lookup("r.example", "y"), None);
        assert!(text.reveal().contains("r.example/x"));
        assert_eq!(without(text.reveal(), &registry).unwrap(), None);
        let fresh = with_password("", &registry, "me", &secret("1")).unwrap();
        assert_eq!(
            fresh.reveal(),
            "{\n  \"auths\": {\n    \"r.example\": {\n      \"auth\": \"bWU6MQ==\"\n    }\n  }\n}\n"
        );
    }

    #[test]
    fn a_file_that_is_no_auth_file_or_has_a_helper_for_it_is_left_alone() {
        let registry: Registry = "r.example".parse().unwrap();
        let login = |text: &str| with_password(text, &registry, "me", &Secret::new("s3cret".to_owned()));
        for text in ["[]", "{\"auths\": []}", "{\"auths\": {\"a\": {\"auth\": \"s3cret\"}}}", "nonsense"] {
            let error = login(text).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        let error = login(r#"{"credHelpers": {"r.example": "pass"}}"#).unwrap_err();
        let expected = "the auth file leaves `r.example` to the credential helper `docker-credential-pass`";
        assert_eq!(error.to_string(), expected);
        assert!(login(r#"{"credsStore": "pass", "credHelpers": {"s.example": "pass"}}"#).is_ok());
    }
}
