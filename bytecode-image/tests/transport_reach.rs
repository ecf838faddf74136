//! Where a registry can send us, and who gets to see credentials.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its helpers too"
)]

mod common;

use bytecode_image::{
    auth::{AuthFile, Credentials, Secret},
    limits,
    reference::Reference,
    registries::{Author, Registries},
    testing::registry::{Access, Mode, Options, TestRegistry},
    transport::{Remote, TransportConfig, TransportError},
};
use common::{REPO, config, noise, reference, registry, registry_with, run, seed, told, with_credentials};

/// A second registry that has the same layer, at another port.
fn other_with_layer() -> TestRegistry {
    let other = TestRegistry::honest().unwrap();
    seed(&other, REPO, "v1", noise(100_000));
    other
}

fn layer_through(registry: &TestRegistry, config: &TransportConfig) -> Result<Vec<u8>, TransportError> {
    let remote = Remote::new(config, &reference(registry));
    run(async {
        let document = remote.tagged("v1").await?;
        let bytecode_image::document::Manifest::Image(image) = document.parse()? else { panic!("an index") };
        remote.bytes(&image.layers[0].descriptor, limits::LAYER).await
    })
}

fn redirecting(to: &str) -> TestRegistry {
    let (registry, image) = registry(Mode::Honest);
    registry.behave(REPO, Mode::RedirectBlobs(to.replace("LAYER", &image.layer.digest.to_string())));
    registry
}

fn refusal(to: &str) -> String {
    let registry = redirecting(to);
    let error = layer_through(&registry, &config(&registry, "")).unwrap_err();
    told(&error, &[("REGISTRY", registry.host())])
}

#[test]
fn a_redirect_to_a_loopback_port_that_nobody_named_is_refused() {
    let other = other_with_layer();
    let to = |scheme: &str| refusal(&format!("{scheme}://{}/v2/{REPO}/blobs/LAYER", other.host()));
    let insecure = "`REGISTRY` refers to `http://OTHER`, which is not https and which registries.toml does not list \
                    with `http = true`";
    assert_eq!(to("http").replace(&other.host(), "OTHER"), insecure);
    let private =
        "`REGISTRY` refers to `OTHER`, a private address that neither the reference nor registries.toml names";
    assert_eq!(to("https").replace(&other.host(), "OTHER"), private);
    assert_eq!(other.seen(), [], "it was asked all the same");
}

#[test]
fn a_redirect_to_a_port_that_registries_toml_names_is_followed_without_credentials() {
    let other = other_with_layer();
    let registry = redirecting(&format!("http://{}/v2/{REPO}/blobs/LAYER?signature=secret", other.host()));
    let more = format!("[[registry]]\nname = \"storage\"\nendpoint = \"{}\"\nhttp = true\n", other.host());
    let config = with_credentials(config(&registry, &more), &registry);
    assert_eq!(layer_through(&registry, &config).unwrap(), noise(100_000));
    let seen = other.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].authorization.as_deref(), seen[0].referer.as_deref()), (None, None));
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_origin() {
    let other = other_with_layer();
    let options = Options { access: Access::Basic("user".into(), "s3cret".into()), ..Options::default() };
    let (registry, image) = registry_with(options, Mode::Honest);
    registry
        .behave(REPO, Mode::RedirectBlobs(format!("http://{}/v2/{REPO}/blobs/{}", other.host(), image.layer.digest)));
    let more = format!("[[registry]]\nname = \"storage\"\nendpoint = \"{}\"\nhttp = true\n", other.host());
    let config = with_credentials(config(&registry, &more), &registry);
    assert_eq!(layer_through(&registry, &config).unwrap(), noise(100_000));
    assert!(registry.seen().iter().any(|seen| seen.authorization.is_some()), "the registry itself gets them");
    assert!(other.seen().iter().all(|seen| seen.authorization.is_none() && seen.referer.is_none()));
}

#[test]
fn redirects_to_private_and_metadata_addresses_are_refused() {
    let private = |to: &str| {
        format!("`REGISTRY` refers to `{to}`, a private address that neither the reference nor registries.toml names")
    };
    for (to, named) in [
        ("https://10.0.0.1/x", "10.0.0.1:443"),
        ("https://169.254.169.254/latest/meta-data", "169.254.169.254:443"),
        ("https://[::1]:8443/x", "[::1]:8443"),
        ("https://[::ffff:127.0.0.1]/x", "[::ffff:7f00:1]:443"),
        ("https://2130706433/x", "127.0.0.1:443"),
        ("https://localhost/x", "localhost:443"),
    ] {
        assert_eq!(refusal(to), private(named), "{to}");
    }
}

#[test]
fn a_redirect_without_tls_or_with_a_user_in_it_is_refused() {
    let insecure = "`REGISTRY` refers to `http://198.51.100.1:80`, which is not https and which registries.toml does \
                    not list with `http = true`";
    assert_eq!(refusal("http://198.51.100.1/x"), insecure);
    let unusable = "`REGISTRY` redirects without a usable `Location`";
    assert_eq!(refusal("https://user:pass@198.51.100.1/x"), unusable);
    assert_eq!(refusal("https://"), unusable);
    assert_eq!(refusal("file:///etc/passwd"), unusable);
}

#[test]
fn redirects_without_end_are_given_up() {
    let (registry, _) = registry(Mode::RedirectForever);
    let error = run(common::remote(&registry).tagged("v1")).unwrap_err();
    assert!(matches!(error, TransportError::Redirects(_)), "{error:?}");
    assert_eq!(registry.seen().len(), limits::REDIRECTS + 1);
}

#[test]
fn a_name_that_only_the_reference_gives_may_be_private_but_needs_tls() {
    let (registry, _) = registry(Mode::Honest);
    let config = TransportConfig { registries: Registries::default(), ..config(&registry, "") };
    // Named by the reference, so it is connected to; but over TLS, which this registry does not speak.
    let error = run(Remote::new(&config, &reference(&registry)).tagged("v1")).unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error:?}");
    assert_eq!(registry.seen(), []);
}

#[test]
fn a_foreign_realm_never_gets_the_credentials() {
    let foreign = TestRegistry::honest().unwrap();
    let (registry, _) = registry(Mode::Realm(format!("http://{}/token", foreign.host())));
    let names = [("REGISTRY", registry.host()), ("FOREIGN", foreign.host())];
    let ask = |more: &str| {
        let config = with_credentials(config(&registry, more), &registry);
        told(&run(Remote::new(&config, &reference(&registry)).tagged("v1")).unwrap_err(), &names)
    };
    let told = "`REGISTRY` asks for its credentials to be sent to `FOREIGN`; if that is right, add `token_realms = \
                [\"FOREIGN\"]` to its entry in registries.toml";
    assert_eq!(ask(""), told);
    // Even where the host may be connected to, it is not the registry's own token server.
    assert_eq!(ask(&format!("[[registry]]\nname = \"{}\"\nhttp = true\n", foreign.host())), told);
    assert_eq!(foreign.seen(), []);
}

#[test]
fn without_credentials_a_private_realm_is_not_asked_either() {
    let foreign = TestRegistry::honest().unwrap();
    for scheme in ["http", "https"] {
        let (registry, _) = registry(Mode::Realm(format!("{scheme}://{}/token", foreign.host())));
        let error = run(common::remote(&registry).tagged("v1")).unwrap_err();
        let refused = matches!(error, TransportError::Insecure { .. } | TransportError::PrivateAddress { .. });
        assert!(refused, "{error:?}");
    }
    assert_eq!(foreign.seen(), []);
}

#[test]
fn a_token_realm_that_registries_toml_lists_gets_the_credentials() {
    let options = Options { access: Access::Bearer("user".into(), "s3cret".into()), ..Options::default() };
    let tokens = TestRegistry::start(options).unwrap();
    let (registry, _) = registry(Mode::Realm(format!("http://{}/token?x=y", tokens.host())));
    let listed = format!("token_realms = [\"{0}\"]\n[[registry]]\nname = \"{0}\"\nhttp = true\n", tokens.host());
    let config = with_credentials(config(&registry, &listed), &registry);
    // The registry never accepts the token, so it ends in a refusal; what counts is where the password went.
    let error = run(Remote::new(&config, &reference(&registry)).tagged("v1")).unwrap_err();
    assert!(matches!(error, TransportError::Denied { .. }), "{error:?}");
    let seen = tokens.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].authorization.as_deref(), Some("Basic dXNlcjpzM2NyZXQ="));
    assert_eq!(seen[0].path, "/token?x=y&scope=repository%3Ateam%2Fapp%3Apull&service=test");
}

#[test]
fn basic_and_bearer_authentication_open_the_door() {
    for access in [
        Access::Basic("user".into(), "s3cret".into()),
        Access::Bearer("user".into(), "s3cret".into()),
        Access::AnonymousBearer,
    ] {
        let (registry, image) = registry_with(Options { access: access.clone(), ..Options::default() }, Mode::Honest);
        let config = with_credentials(config(&registry, ""), &registry);
        assert_eq!(layer_through(&registry, &config).unwrap(), image.layer_bytes, "{access:?}");
        let refused =
            registry.seen().iter().filter(|seen| seen.path.starts_with("/v2/") && seen.authorization.is_none()).count();
        assert_eq!(refused, 1, "the header is kept: {access:?}");
    }
}

#[test]
fn an_identity_token_is_exchanged_for_a_token_and_sent_to_nobody_else() {
    let with_token = |access, token: &str| {
        let (registry, _) = registry_with(Options { access, ..Options::default() }, Mode::Honest);
        let token = Credentials::IdentityToken(Secret::new(token.to_owned()));
        let auth = AuthFile::one(&registry.host().parse().unwrap(), token);
        let config = TransportConfig { auth, ..config(&registry, "") };
        let outcome = layer_through(&registry, &config).map_err(|error| told(&error, &[("REGISTRY", registry.host())]));
        (outcome, registry.seen())
    };
    let (outcome, seen) = with_token(Access::IdentityToken("s3cret+/=".into()), "s3cret+/=");
    assert_eq!(outcome, Err("`REGISTRY` denies access (UNAUTHORIZED: unauthorized)".to_owned()), "it is sent escaped");
    assert_eq!(seen.last().unwrap().method, "POST");
    let (outcome, seen) = with_token(Access::IdentityToken("s3cret".into()), "s3cret");
    assert_eq!(outcome.unwrap(), noise(100_000));
    assert!(seen.iter().all(|seen| !format!("{seen:?}").contains("s3cret")), "it is in a body only");
    assert_eq!(seen.iter().filter(|seen| seen.path == "/token").count(), 1);
    let (outcome, seen) = with_token(Access::Basic("user".into(), "s3cret".into()), "s3cret");
    let lacking = "`REGISTRY` requires credentials, and the auth file has none for it: there is only an identity token, and \
                   the registry has no token server";
    assert_eq!(outcome, Err(lacking.to_owned()));
    assert!(seen.iter().all(|seen| seen.authorization.is_none()));
}

#[test]
fn a_helper_that_was_not_run_is_named_only_if_the_registry_asks_for_credentials() {
    for access in
        [Access::Basic("user".into(), "s3cret".into()), Access::Bearer("user".into(), "s3cret".into()), Access::Open]
    {
        let (registry, _) = registry_with(Options { access: access.clone(), ..Options::default() }, Mode::Honest);
        let auth = AuthFile::parse(br#"{"credsStore": "pass"}"#).unwrap();
        let config = TransportConfig { auth, ..config(&registry, "") };
        let outcome = run(Remote::new(&config, &reference(&registry)).tagged("v1"));
        let expected = "`REGISTRY` requires credentials, and the auth file has none for it: the auth file leaves them to \
                        `docker-credential-pass`, and bpfd runs no credential helpers";
        match outcome {
            Ok(_) => assert_eq!(access, Access::Open),
            Err(error) => assert_eq!(told(&error, &[("REGISTRY", registry.host())]), expected),
        }
    }
}

#[test]
fn wrong_and_missing_credentials_are_told_apart() {
    let options = Options { access: Access::Basic("user".into(), "other".into()), ..Options::default() };
    let (registry, _) = registry_with(options, Mode::Honest);
    let names = [("REGISTRY", registry.host())];
    let missing = run(common::remote(&registry).tagged("v1")).unwrap_err();
    assert_eq!(told(&missing, &names), "`REGISTRY` requires credentials, and the auth file has none for it");
    let config = with_credentials(config(&registry, ""), &registry);
    let wrong = run(Remote::new(&config, &reference(&registry)).tagged("v1")).unwrap_err();
    assert_eq!(told(&wrong, &names), "`REGISTRY` denies access");
}

#[test]
fn a_reference_of_somebody_else_names_no_private_address() {
    let (registry, _) = registry(Mode::Honest);
    let unknown = TransportConfig { registries: Registries::default(), author: Author::Other, ..config(&registry, "") };
    for host in ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"] {
        let host = format!("{host}:{}", registry.address().port());
        let error = run(Remote::new(&unknown, &format!("{host}/{REPO}:v1").parse().unwrap()).tagged("v1")).unwrap_err();
        assert_eq!(error.to_string(), format!("`{host}` has a private address, and registries.toml does not name it"));
    }
    assert_eq!(registry.seen(), []);
    // The file's word is enough.
    let known = TransportConfig { author: Author::Other, ..config(&registry, "") };
    run(Remote::new(&known, &reference(&registry)).tagged("v1")).unwrap();
}

/// Settings for `registry.example`, which no resolver knows, and what else registries.toml says.
fn through(more: &str) -> (TransportConfig, Reference) {
    let text = format!("[[registry]]\nname = \"registry.example\"\nhttp = true\n{more}");
    let registries = Registries::parse(&text, "registries.toml").unwrap();
    let config = TransportConfig { registries, author: Author::Trusted, ..TransportConfig::default() };
    (config, format!("registry.example/{REPO}:v1").parse().unwrap())
}

#[test]
fn a_registry_is_asked_through_the_proxy_that_registries_toml_names() {
    // A proxy is asked for whole URLs; this one answers itself.
    let (proxy, image) = registry(Mode::Honest);
    let (config, reference) = through(&format!("[proxy]\nhttp = \"http://{}\"\n", proxy.host()));
    let resolved = run(async { Remote::new(&config, &reference).tagged("v1").await }).unwrap();
    assert_eq!(resolved.digest(), image.digest);
    assert_eq!(proxy.seen()[0].path, format!("http://registry.example/v2/{REPO}/manifests/v1"));
    // Hosts that are excepted, this machine's own, and those of the other scheme are reached directly.
    let (direct, _) = registry(Mode::Honest);
    let text = format!("{}[proxy]\nhttp = \"http://{}\"\n", direct.registries_toml(), proxy.host());
    let config = TransportConfig { registries: Registries::parse(&text, "x").unwrap(), ..common::config(&direct, "") };
    run(async { Remote::new(&config, &common::reference(&direct)).tagged("v1").await }).unwrap();
    assert_eq!((proxy.seen().len(), direct.seen().len()), (1, 1));
}

#[test]
fn a_proxy_opens_no_private_address_and_no_way_without_tls() {
    let (proxy, image) = registry(Mode::Honest);
    let proxies = format!("[proxy]\nhttp = \"http://{0}\"\nhttps = \"http://{0}\"\n", proxy.host());
    let (config, reference) = through(&proxies);
    let asked = |to: &str| {
        proxy.behave(REPO, Mode::RedirectBlobs(to.to_owned()));
        let fetched = run(async { Remote::new(&config, &reference).bytes(&image.layer, limits::LAYER).await });
        told(&fetched.unwrap_err(), &[])
    };
    let refers = "`registry.example:80` refers to";
    let private = "a private address that neither the reference nor registries.toml names";
    assert_eq!(asked("https://10.0.0.1/x"), format!("{refers} `10.0.0.1:443`, {private}"));
    assert_eq!(asked("https://localhost/x"), format!("{refers} `localhost:443`, {private}"));
    let insecure = "which is not https and which registries.toml does not list with `http = true`";
    assert_eq!(asked("http://r.example/x"), format!("{refers} `http://r.example:80`, {insecure}"));
    assert!(proxy.seen().iter().all(|seen| seen.path.starts_with("http://registry.example/")), "{:?}", proxy.seen());
    // It speaks HTTP, but not CONNECT.
    let closed = asked("https://198.51.100.1/x");
    let expected = format!("cannot reach `198.51.100.1:443` through the proxy `{}`: ", proxy.host());
    assert!(closed.starts_with(&expected), "{closed}");
    let asked = proxy.seen().pop().map(|seen| (seen.method, seen.path));
    assert_eq!(asked, Some(("CONNECT".to_owned(), "198.51.100.1:443".to_owned())));
}
