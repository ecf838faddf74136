//! The pages of `docs/`, as they stand: every line of their console blocks, page by page, and the files that they show.
#![expect(clippy::unwrap_used, reason = "the lints exempt test functions, not what they share")]

use std::fs;
use std::path::{Path, PathBuf};

use bpfd_tests::page::{Line, console, holds, printed, shown_files};
use bpfd_tests::picture::svg;
use bpfd_tests::{example, example_program};
use snapbox::{assert_data_eq, file};

/// Pages whose lines other cases run: on a host that is as the page says.
const ELSEWHERE: [&str; 2] = [
    "agents.md",     // host_agents
    "operations.md", // host_lost_state
];

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs")
}

/// Runs a page's lines, but those that build: what cargo builds is built, and xtask's own tests read the lines that call it.
#[track_caller]
fn works(page: &str) {
    let text = fs::read_to_string(docs().join(page)).unwrap();
    let lines = console(&text);
    let lines: Vec<&Line> = lines.iter().filter(|line| !line.command.starts_with("cargo ")).collect();
    assert!(lines.len() > 2, "docs/{page} has lines");
    example("xdp-counter");
    holds(&format!("docs/{page}"), &lines);
}

#[test]
fn the_lines_of_setup_do_what_the_page_says() {
    works("setup.md");
}

#[test]
fn the_lines_of_the_tutorial_do_what_the_page_says() {
    works("tutorial.md");
}

#[test]
fn the_lines_of_troubleshooting_do_what_the_page_says() {
    works("troubleshooting.md");
}

#[test]
fn the_lines_about_images_do_what_the_page_says() {
    works("how-to/images.md");
}

#[test]
fn the_lines_about_a_firewall_do_what_the_page_says() {
    works("how-to/firewall.md");
}

#[test]
fn the_lines_about_go_do_what_the_page_says() {
    if example_program("go-map-reader").is_some() {
        works("how-to/go.md");
    }
}

#[test]
fn the_lines_about_ci_do_what_the_page_says() {
    works("how-to/ci.md");
}

#[test]
fn the_lines_about_hosts_without_a_network_do_what_the_page_says() {
    works("how-to/air-gapped.md");
}

/// Of a directory and of those below it.
fn pages(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| if path.is_dir() { pages(&path) } else { vec![path] });
    found.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

#[test]
fn no_page_with_a_console_is_left_out() {
    let cases = include_str!("host_book.rs");
    let (mut run, mut left_out) = (0, Vec::new());
    for path in pages(&docs()) {
        let page = path.strip_prefix(docs()).unwrap().display().to_string();
        if console(&fs::read_to_string(&path).unwrap()).is_empty() || ELSEWHERE.contains(&&*page) {
            continue;
        }
        if cases.contains(&format!("works(\"{page}\")")) { run += 1 } else { left_out.push(page) }
    }
    assert_eq!(left_out, Vec::<String>::new());
    assert_eq!(run, cases.matches("    works(\"").count());
}

#[test]
fn a_file_that_a_page_shows_is_the_file() {
    let root = docs().parent().unwrap().to_owned();
    let mut checked = 0;
    for path in pages(&docs()) {
        for (file, shown) in shown_files(&fs::read_to_string(&path).unwrap()) {
            assert_eq!(shown, fs::read_to_string(root.join(&file)).unwrap(), "{}: {file}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 4, "{checked}");
}

/// What is done before, and not shown.
const STAGE: &str = "export PATH=$PWD/target/debug:$PATH
install -D --mode 644 examples/registries.toml /etc/bpfd/registries.toml
bpfd 2>/run/bpfd.log &
until [ -S /run/bpfd/bpfd.sock ]; do sleep 0.1; done
bpfctl image build target/bpf/xdp-counter.bpf.o --tag registry/bpf/counter:1.0
bpfctl image push registry/bpf/counter:1.0
bpfctl keygen /run/home/ci.key";

/// What the terminal of README.md shows.
const SHOWN: [&str; 6] = [
    "bpfctl load --image registry/bpf/counter:1.0 xdp -i eth0",
    "bpfctl image sign registry/bpf/counter:1.0 --key ~/ci.key --quiet",
    "bpfctl trust add ci --key ~/ci.key.pub --scope 'registry/bpf/**' --quiet",
    "bpfctl load --image registry/bpf/counter:1.0 --name a --quiet xdp -i eth0 --priority 50",
    "bpfctl load --image registry/bpf/counter:1.0 --name b --quiet xdp -i eth0 --priority 20",
    "bpfctl list",
];

#[test]
fn the_picture_of_the_readme_is_of_a_real_run() {
    example("xdp-counter");
    let coloured = SHOWN.map(|line| line.replacen("bpfctl", "bpfctl --color always", 1));
    let commands: Vec<&str> = [STAGE].into_iter().chain(coloured.iter().map(String::as_str)).collect();
    let said = printed(&commands);
    // The digest differs with the compiler's version.
    let said: Vec<String> = said.iter().map(|text| shortened(text)).collect();
    let session: Vec<(&str, &str)> = SHOWN.into_iter().zip(said.iter().skip(1).map(String::as_str)).collect();
    let title = "bpfctl refuses an image without a signature; signed, two programs share one interface";
    assert_data_eq!(svg(title, &session), file!["../../docs/picture.svg"].raw());
}

/// Each digest as three dots.
fn shortened(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| format!("sha256:…{}", part.trim_start_matches(|c: char| c.is_ascii_hexdigit())));
    first + &rest.collect::<String>()
}
