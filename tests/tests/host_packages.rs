//! What is in the packages that `cargo xtask dist` makes: files, modes, fields, manual pages. `guest_package` shows what they do.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the lints exempt test functions, not what they share"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use insta::assert_snapshot;

/// A package of the test build; `None` if the runner has made none.
fn package(name: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/packages/test/old");
    let Ok(entries) = fs::read_dir(&dir) else {
        println!("skipped: `cargo xtask test --only host` makes the packages that it reads");
        return None;
    };
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{name}_")))
}

fn said(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Mode, owner and path of each file that is no directory; the pages of bpfctl's commands as one.
fn files(package: &Path) -> String {
    let listed = said("dpkg-deb", &["--contents", package.to_str().unwrap()]);
    let mut shown = BTreeSet::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, _, _, _, path, ..] = words.as_slice() else { panic!("{line}") };
        let path = match path.split_once("/bpfctl-") {
            Some((dir, page)) if page.ends_with(".1.gz") => format!("{dir}/bpfctl-COMMAND.1.gz"),
            _ => (*path).to_owned(),
        };
        if !path.ends_with('/') {
            shown.insert(format!("{path}  {mode} {owner}\n"));
        }
    }
    shown.into_iter().collect()
}

/// A field of its control file, or a file beside it.
fn control(package: &Path, name: &str) -> String {
    let package = package.to_str().unwrap();
    if name == "conffiles" {
        said("dpkg-deb", &["--info", package, name])
    } else {
        said("dpkg-deb", &["--field", package, name])
    }
}

#[test]
fn the_daemons_package_has_its_units_pages_and_configuration() {
    let Some(package) = package("bpfd") else { return };
    assert_snapshot!(files(&package));
    assert_snapshot!(control(&package, "conffiles"), @"
    /etc/bpfd/policy.toml
    /etc/bpfd/registries.toml
    ");
    let depends = control(&package, "Depends");
    assert!(
        depends.contains("bpfctl (>= ") && depends.contains("libc6 (>= ") && depends.contains("systemd"),
        "{depends}"
    );
}

#[test]
fn the_package_of_bpfctl_needs_no_daemon() {
    let Some(package) = package("bpfctl") else { return };
    assert_snapshot!(files(&package));
    let depends = control(&package, "Depends");
    assert!(depends.contains("libc6 (>= ") && !depends.contains("bpfd"), "{depends}");
}

/// The tree of both packages.
fn installed() -> Option<tempfile::TempDir> {
    let tree = tempfile::tempdir().unwrap();
    for name in ["bpfd", "bpfctl"] {
        said("dpkg-deb", &["--extract", package(name)?.to_str().unwrap(), tree.path().to_str().unwrap()]);
    }
    Some(tree)
}

#[test]
fn each_program_that_a_unit_starts_is_in_a_package() {
    let Some(tree) = installed() else { return };
    let mut started = BTreeSet::new();
    for entry in fs::read_dir(tree.path().join("usr/lib/systemd/system")).unwrap() {
        let unit = fs::read_to_string(entry.unwrap().path()).unwrap();
        started.extend(
            unit.lines().filter_map(|line| Some(line.strip_prefix("ExecStart=")?.split(' ').next()?.to_owned())),
        );
    }
    assert_eq!(started.iter().map(String::as_str).collect::<Vec<_>>(), ["/usr/bin/bpfctl", "/usr/sbin/bpfd"]);
    for program in started {
        assert!(tree.path().join(program.trim_start_matches('/')).is_file(), "{program}");
    }
}

#[test]
fn every_manual_page_is_what_man_understands() {
    let Some(tree) = installed() else { return };
    if Command::new("man").arg("--version").output().is_err() {
        println!("skipped: there is no man");
        return;
    }
    let mut pages = 0;
    for section in fs::read_dir(tree.path().join("usr/share/man")).unwrap() {
        for page in fs::read_dir(section.unwrap().path()).unwrap() {
            let page = page.unwrap().path();
            let complaints = complaints(&page);
            assert_eq!(complaints, "", "{}", page.display());
            pages += 1;
        }
    }
    assert!(pages > 40, "{pages} pages");
    let wrong = tree.path().join("wrong.1");
    fs::write(&wrong, ".TH WRONG 1\n.NOSUCHMACRO\n").unwrap();
    assert_ne!(complaints(&wrong), "");
}

/// What man(1) has against a page.
fn complaints(page: &Path) -> String {
    let done = Command::new("man")
        .args(["--warnings", "--encoding=UTF-8", "--local-file", page.to_str().unwrap()])
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "100")
        .output()
        .unwrap();
    String::from_utf8(done.stderr).unwrap()
}

#[test]
fn the_default_configuration_is_read_and_changes_nothing() {
    let Some(tree) = installed() else { return };
    let etc = tree.path().join("etc/bpfd");
    let mut host = bpfd_tests::Host::without_daemon();
    let theirs = host.path("/run/case/etc/bpfd");
    fs::create_dir_all(&theirs).unwrap();
    for file in ["policy.toml", "registries.toml"] {
        fs::copy(etc.join(file), theirs.join(file)).unwrap();
    }
    host.start();
    assert!(host.bpfctl("version").ok().contains("ready"));
    let object = bpfd_tests::example("xdp-counter");
    host.bpfctl(&format!("load --path {object} --name a xdp -i uplink")).ok();
    host.bpfctl("unload a").ok();
}
