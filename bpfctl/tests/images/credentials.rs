//! Whose credentials bpfctl uses: the auth files of podman and docker, and the helpers that they name.

#![expect(clippy::unwrap_used, reason = "what is shared by tests may fail them")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bytecode_image::testing::registry::Access;

use crate::home::Home;

const TAG: &str = "image build counter.o --tag registry/bpf/counter:1 -q";
const PUSH: &str = "image push registry/bpf/counter:1 -q";

/// `user:s3cret`, and others that no registry knows.
const RIGHT: &str = r#"{"auth": "dXNlcjpzM2NyZXQ="}"#;
const WRONG: &str = r#"{"auth": "dXNlcjp3cm9uZw=="}"#;
const SAYS_RIGHT: &str = r#"echo '{"Username":"user","Secret":"s3cret"}'"#;

const DONE: &str = "--- exit 0\n";

fn home() -> Home {
    let home = Home::with(Access::Bearer("user".into(), "s3cret".into()));
    assert!(home.run(TAG).ends_with(DONE));
    home
}

/// What a push prints below its first line.
#[track_caller]
fn pushed(home: &Home, expected: &str) {
    pushed_with(home, &[], expected);
}

#[track_caller]
fn pushed_with(home: &Home, variables: &[(&str, &str)], expected: &str) {
    let text = home.run_with(PUSH, variables, "");
    assert!(!text.contains("s3cret"), "{text}");
    let (_line, text) = text.split_once('\n').unwrap();
    assert_eq!(text.replace("sha256:…\n", ""), expected);
}

const DENIED: &str = "--- stderr\nerror: cannot push `registry/bpf/counter:1`\ncause: `127.0.0.1:PORT` denies access \
                      (UNAUTHORIZED: unauthorized)\nhint: log in with `bpfctl login`, podman or docker, or give --authfile\n--- exit 9\n";

fn none(more: &str) -> String {
    format!(
        "--- stderr\nerror: cannot push `registry/bpf/counter:1`\ncause: `127.0.0.1:PORT` requires credentials, and the auth \
         file has none for it{more}\nhint: log in with `bpfctl login`, podman or docker, or give --authfile\n--- exit 9\n"
    )
}

fn asked(home: &Home) -> String {
    fs::read_to_string(home.path().join("asked")).unwrap_or_default()
}

#[test]
fn the_first_file_that_knows_the_registry_is_used_and_the_most_specific_entry_in_it() {
    let home = home();
    let docker = ".docker/config.json";
    pushed(&home, &none(""));
    home.write(docker, &format!(r#"{{"auths": {{"https://registry/v1/": {RIGHT}}}}}"#));
    home.write(".config/containers/auth.json", r#"{"auths": {"other": {"auth": "bm90OmJhc2U2NA=="}}}"#);
    pushed(&home, DONE);
    home.write(docker, &format!(r#"{{"auths": {{"registry": {WRONG}, "registry/bpf": {RIGHT}}}}}"#));
    pushed(&home, DONE);
    home.write(docker, &format!(r#"{{"auths": {{"registry": {RIGHT}, "registry/bpf/counter": {WRONG}}}}}"#));
    pushed(&home, DENIED);
    // An earlier file, a directory of docker's elsewhere, and the variable.
    home.write(".config/containers/auth.json", &format!(r#"{{"auths": {{"registry": {RIGHT}}}}}"#));
    pushed(&home, DONE);
    let path = home.path().join("elsewhere").display().to_string();
    home.write("elsewhere/config.json", &format!(r#"{{"auths": {{"registry": {WRONG}}}}}"#));
    pushed_with(&home, &[("REGISTRY_AUTH_FILE", &format!("{path}/config.json"))], DENIED);
    home.write(".config/containers/auth.json", "{}");
    pushed_with(&home, &[("DOCKER_CONFIG", &path)], DENIED);
}

#[test]
fn helpers_are_asked_once_for_the_registry_alone() {
    let home = home();
    home.helper("store", SAYS_RIGHT);
    home.helper("own", SAYS_RIGHT);
    home.write(".docker/config.json", r#"{"auths": {"registry": {}}, "credsStore": "store"}"#);
    pushed(&home, DONE);
    assert_eq!(asked(&home), "store get registry\n");
    let both =
        format!(r#"{{"auths": {{"registry": {WRONG}}}, "credsStore": "store", "credHelpers": {{"registry": "own"}}}}"#);
    home.write(".docker/config.json", &both);
    pushed(&home, DONE);
    assert_eq!(asked(&home), "store get registry\nown get registry\n");
    home.write(".docker/config.json", &format!(r#"{{"auths": {{"registry": {RIGHT}}}, "credsStore": "store"}}"#));
    pushed(&home, DONE);
    assert_eq!(asked(&home), "store get registry\nown get registry\n", "the file has them");
}

#[test]
fn a_helper_that_fails_is_named_if_the_registry_asks_for_credentials() {
    let home = home();
    home.write(".docker/config.json", r#"{"credsStore": "x"}"#);
    let failed = |why: &str| none(&format!(": the credential helper `docker-credential-x` failed: {why}"));
    pushed(&home, &failed("it cannot be run: No such file or directory (os error 2)"));
    home.helper("x", "echo s3cret; exit 3");
    pushed(&home, &failed("it ended with exit status: 3"));
    home.helper("x", "echo s3cret");
    pushed(&home, &failed("its answer is not JSON with `Username` and `Secret`"));
    home.helper("x", "echo credentials not found in native keychain; exit 1");
    pushed(&home, &none(""));
    // A registry that is open to all needs no helper.
    let open = Home::new();
    open.run(TAG);
    open.write(".docker/config.json", r#"{"credsStore": "missing"}"#);
    pushed(&open, DONE);
    open.write(".docker/config.json", r#"{"credsStore": "../bin/x"}"#);
    let refused = "--- stderr\nerror: cannot read credentials from `HOME/.docker/config.json`\ncause: a credential helper in the \
                   auth file has a name that is not letters, digits, `.`, `_` and `-`\n--- exit 2\n";
    pushed(&open, refused);
}

#[test]
fn an_identity_token_pushes() {
    let home = Home::with(Access::IdentityToken("s3cret".into()));
    home.run(TAG);
    home.write(".docker/config.json", r#"{"auths": {"registry": {"auth": "MDA6", "identitytoken": "s3cret"}}}"#);
    pushed(&home, DONE);
    home.helper("acr", r#"echo '{"Username":"<token>","Secret":"s3cret"}'"#);
    home.write(".docker/config.json", r#"{"credHelpers": {"registry": "acr"}}"#);
    pushed(&home, DONE);
}

const LOGIN: &str = "login registry --username user --password-stdin";

/// What a command with a password on its standard input prints below its first line.
fn after(home: &Home, line: &str, input: &str) -> String {
    let text = home.run_with(line, &[], input);
    assert!(!text.contains("s3cret"), "{text}");
    text.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn a_login_is_checked_and_stored_for_its_user_alone_until_the_logout() {
    for access in [Access::Basic("user".into(), "s3cret".into()), Access::Bearer("user".into(), "s3cret".into())] {
        let home = Home::with(access);
        home.run(TAG);
        let path = home.path().join(".config/containers/auth.json");
        let wrong = after(&home, LOGIN, "wrong\n");
        assert!(
            wrong.starts_with("--- stderr\nerror: cannot log in to `registry`\ncause: `127.0.0.1:PORT` denies access"),
            "{wrong}"
        );
        assert!(wrong.ends_with("--- exit 9\n") && !path.exists(), "{wrong}");
        let stored = "logged in to registry as user (HOME/.config/containers/auth.json)\n--- exit 0\n";
        assert_eq!(after(&home, LOGIN, "s3cret\n"), stored);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "and no other file");
        pushed(&home, DONE);
        let gone = "logged out of registry (HOME/.config/containers/auth.json)\n--- exit 0\n";
        assert_eq!(after(&home, "logout registry", ""), gone);
        pushed(&home, &none(""));
        let nothing = "--- stderr\nerror: cannot log out of `registry`\ncause: `HOME/.config/containers/auth.json` has nothing for \
                       it\n--- exit 3\n";
        assert_eq!(after(&home, "logout registry", ""), nothing);
        let seen = home.registry.seen();
        assert!(seen.iter().any(|seen| seen.path == "/v2/"), "{seen:?}");
    }
}

#[test]
fn what_a_login_cannot_store_is_said_before_anything_is_written() {
    let home = home();
    let text = r#"{"credHelpers": {"registry": "pass"}}"#;
    home.write("auth.json", text);
    let line = format!("{LOGIN} --authfile auth.json");
    let helper = "--- stderr\nerror: cannot log in to `registry`\ncause: `auth.json`: the auth file leaves `registry` to the credential \
                  helper `docker-credential-pass`\n--- exit 2\n";
    assert_eq!(after(&home, &line, "s3cret"), helper);
    assert_eq!(fs::read_to_string(home.path().join("auth.json")).unwrap(), text);
    let refused = |cause: &str| format!("--- stderr\nerror: cannot log in to `registry`\ncause: {cause}\n--- exit 2\n");
    assert_eq!(after(&home, LOGIN, "\n"), refused("the password is empty"));
    let colon = "login registry --username a:b --password-stdin";
    assert_eq!(after(&home, colon, "s3cret"), refused("the name of a user is not empty and has no colon"));
    let terminal = refused("there is no terminal to ask for the password\nhint: give --password-stdin");
    assert_eq!(after(&home, "login registry --username user", "s3cret"), terminal);
    // A registry that is open to all cannot say whether the password is right.
    let open = Home::new();
    let unchecked = "logged in to registry as user (HOME/.config/containers/auth.json)\n--- stderr\nwarning: `registry` does not ask \
                     who you are, and did not check the password\n--- exit 0\n";
    assert_eq!(after(&open, LOGIN, "s3cret"), unchecked);
}
