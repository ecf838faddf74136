//! Where the programs and the BPF objects are that cases use.

use std::path::PathBuf;

/// A program of the workspace, beside the test program's own directory: what the same build made.
pub(crate) fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let built = own.ancestors().nth(2).unwrap().join(name);
    assert!(built.is_file(), "`{}` is not built: run `cargo xtask test --only host`", built.display());
    built
}

/// An object of `examples/`, compiled.
pub fn example(name: &str) -> String {
    let object = tree().join(format!("target/bpf/{name}.bpf.o"));
    assert!(object.is_file(), "`{}` is not built: run `cargo xtask test --only host`", object.display());
    object.to_str().unwrap().to_owned()
}

/// A program of `examples/`, or one of others that runs those: `None` if this host has no Go, or no Python with the packages, and
/// then it says so.
pub fn example_program(name: &str) -> Option<String> {
    let built = tree().join("target/examples").join(name);
    if built.is_file() {
        return Some(built.to_str().unwrap().to_owned());
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let go = std::env::split_paths(&directories).any(|directory| directory.join("go").is_file());
    assert!(
        name.starts_with("python/") || !go,
        "`{}` is not built: run `cargo xtask test --only host`",
        built.display()
    );
    #[expect(clippy::print_stdout, reason = "the runner reads it")]
    {
        println!(
            "skipped: needs {}",
            if go { "Python with grpcio-tools, from PyPI" } else { "Go, which is not on PATH" }
        );
    }
    None
}

/// A program of `examples/` in Rust, which the build of the tests made.
pub fn rust_example(name: &str) -> String {
    program(name).to_str().unwrap().to_owned()
}

/// An object that bpfd must refuse, or read with care.
pub fn broken(name: &str) -> String {
    let object = tree().join(format!("ebpf/tests/objects/{name}.o"));
    assert!(object.is_file(), "`{}` is not there", object.display());
    object.to_str().unwrap().to_owned()
}

/// An object of `examples/` under a licence that no GPL-compatible program can be one program with.
pub fn proprietary(name: &str) -> Vec<u8> {
    const THEIRS: &[u8] = b"Dual BSD/GPL\0";
    const CLOSED: &[u8] = b"Proprietary\0\0";
    let mut object = std::fs::read(example(name)).unwrap();
    let places: Vec<usize> =
        object.windows(THEIRS.len()).enumerate().filter(|(_, found)| *found == THEIRS).map(|(at, _)| at).collect();
    let [place] = places.as_slice() else { panic!("the licence stands at {places:?}") };
    object[*place..place + CLOSED.len()].copy_from_slice(CLOSED);
    object
}

pub(crate) fn tree() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
