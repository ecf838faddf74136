//! Programs on functions of the kernel. Guests only: what the host's kernel was built with is its own business.
#![expect(clippy::unwrap_used, reason = "the lint exempts test functions, not what they share")]

use bpfd_tests::{Host, example};
use insta::assert_snapshot;

/// What is counted once for each, as well as what others on this kernel do.
const REMOVALS: u64 = 1000;

fn remove_files() {
    for _ in 0..REMOVALS {
        std::fs::remove_file("/no/such/file").unwrap_err();
    }
}

/// Whether the app counts removals of files in a map.
fn counts(host: &Host, app: &str, map: &str) -> bool {
    let before = host.sum(app, map);
    remove_files();
    host.sum(app, map) >= before + REMOVALS
}

/// Runs while the daemon is stopped or dead, and no longer than it is attached.
fn runs_until_it_is_detached(host: &mut Host, (app, map): (&str, &str), link: &str) {
    assert!(counts(host, app, map));
    for end in [Host::stop, Host::kill] {
        let before = host.sum(app, map);
        end(host);
        remove_files();
        host.start();
        assert!(host.sum(app, map) >= before + REMOVALS, "the pinned link holds it");
        assert!(counts(host, app, map));
    }
    host.check();
    host.bpfctl(&format!("detach {link}")).ok();
    let before = host.sum(app, map);
    remove_files();
    assert_eq!(host.sum(app, map), before);
    host.check();
}

#[test]
fn a_kprobe_program_runs_across_a_kill_until_it_is_detached() {
    let mut host = Host::new();
    let object = example("kprobe-count");
    // The section names the target.
    assert_snapshot!(host.bpfctl(&format!("load --path {object} --name p kprobe")).ok(), @"
    PROGRAM      TYPE       HOOK                PRIO  POS  STATE
    p/on_call    kprobe     kprobe:do_unlinkat  -     -    ATTACHED
    p/on_return  kretprobe  -                   -     -    LOADED
    ");
    runs_until_it_is_detached(&mut host, ("p", "calls"), "p/on_call@kprobe:do_unlinkat");
}

#[test]
fn a_kretprobe_program_runs_across_a_kill_until_it_is_detached() {
    let mut host = Host::new();
    let object = example("kprobe-count");
    assert_snapshot!(host.bpfctl(&format!("load --path {object} --name r --program on_return kretprobe")).ok(), @"
    PROGRAM      TYPE       HOOK                   PRIO  POS  STATE
    r/on_return  kretprobe  kretprobe:do_unlinkat  -     -    ATTACHED
    ");
    runs_until_it_is_detached(&mut host, ("r", "returns"), "r/on_return@kretprobe:do_unlinkat");
}

#[test]
fn a_kprobe_program_attaches_to_the_function_and_instruction_that_the_request_names() {
    let host = Host::new();
    let object = example("kprobe-count");
    assert_snapshot!(host.bpfctl(&format!("load --path {object} --name p --program on_call kprobe -f vfs_unlink")).ok(), @"
    PROGRAM    TYPE    HOOK               PRIO  POS  STATE
    p/on_call  kprobe  kprobe:vfs_unlink  -     -    ATTACHED
    ");
    assert!(!counts(&host, "p", "calls"), "the removal of an absent file calls no vfs_unlink");
    // Behind the instruction of the function's tracing, before which newer kernels have another (`endbr64`).
    let attach = |offset: &u32| host.bpfctl(&format!("attach p/on_call kprobe -f do_unlinkat --offset {offset}"));
    let offset = [5, 9].into_iter().find(|offset| attach(offset).code == 0).unwrap();
    assert!(counts(&host, "p", "calls"));
    host.bpfctl(&format!("detach p/on_call@kprobe:do_unlinkat+{offset:#x}")).ok();
    assert!(!counts(&host, "p", "calls"));
    host.check();
}

#[test]
fn a_kernel_function_that_cannot_be_probed_is_told() {
    let host = Host::new();
    let object = example("kprobe-count");
    host.bpfctl(&format!("load --path {object} --name p")).ok();
    let absent = host.refuses(3, "attach p kprobe -f no_such_function");
    assert_snapshot!(absent, @"
    error: cannot attach `p` to kernel function `no_such_function`
    cause: this kernel has no kernel function `no_such_function`
    hint: `grep -w no_such_function /proc/kallsyms` shows whether there is one, and only one, of that name; those in /sys/kernel/debug/kprobes/blacklist, and places within an instruction, cannot be probed
    ");
    assert_eq!(host.refuses(3, "attach p kretprobe -f no_such_function"), absent);
    // Marked as not to be probed, as it runs for each probe; inside an instruction; the name of several functions.
    for target in ["exc_int3", "do_unlinkat --offset 2", "t_start"] {
        let refused = host.refuses(3, &format!("attach p kprobe -f {target}"));
        let shown = target.replace(" --offset ", "+0x");
        let (cause, hint) = refused.split_once("\nhint: ").unwrap();
        assert_eq!(
            cause,
            format!(
                "error: cannot attach `p` to kernel function `{shown}`\n\
                 cause: this kernel lets no program attach to kernel function `{shown}`"
            )
        );
        assert!(hint.contains("cannot be probed"), "{hint}");
    }
    host.check();
}

#[test]
fn a_fentry_program_runs_across_a_kill_until_it_is_detached() {
    let mut host = Host::new();
    let object = example("fentry-count");
    // The section names the target.
    assert_snapshot!(host.bpfctl(&format!("load --path {object} --name f fentry")).ok(), @"
    PROGRAM     TYPE    HOOK                PRIO  POS  STATE
    f/on_entry  fentry  fentry:do_unlinkat  -     -    ATTACHED
    f/on_exit   fexit   -                   -     -    LOADED
    ");
    runs_until_it_is_detached(&mut host, ("f", "entries"), "f/on_entry@fentry:do_unlinkat");
    assert_snapshot!(host.bpfctl("attach f fentry").ok(), @"
    PROGRAM     TYPE    HOOK                PRIO  POS  STATE
    f/on_entry  fentry  fentry:do_unlinkat  -     -    ATTACHED
    ");
    assert!(counts(&host, "f", "entries"));
}

#[test]
fn a_fexit_program_runs_across_a_kill_until_it_is_detached() {
    let mut host = Host::new();
    let object = example("fentry-count");
    host.bpfctl(&format!("load --path {object} --name f")).ok();
    assert_snapshot!(host.bpfctl("attach f fexit -f do_unlinkat").ok(), @"
    PROGRAM    TYPE   HOOK               PRIO  POS  STATE
    f/on_exit  fexit  fexit:do_unlinkat  -     -    ATTACHED
    ");
    runs_until_it_is_detached(&mut host, ("f", "exits"), "f/on_exit@fexit:do_unlinkat");
}

#[test]
fn a_fentry_program_is_loaded_for_the_function_that_the_request_names_also_after_a_boot() {
    let mut host = Host::new();
    let object = example("fentry-count");
    for program in ["on_any", "on_entry"] {
        let load = format!("load --path {object} --name any --program {program} fentry --function vfs_unlink");
        let loaded = host.bpfctl(&load).ok();
        assert!(loaded.contains(&format!("any/{program}  fentry  fentry:vfs_unlink  ")), "{loaded}");
        let counts_removed = |host: &Host| {
            let before = host.sum("any", "entries");
            let file = host.path("/run/removed");
            for _ in 0..REMOVALS {
                std::fs::write(&file, "").unwrap();
                std::fs::remove_file(&file).unwrap();
            }
            host.sum("any", "entries") >= before + REMOVALS
        };
        assert!(!counts(&host, "any", "entries"), "the removal of an absent file calls no vfs_unlink");
        assert!(counts_removed(&host));
        // What a boot leaves: rows, and a kernel that knows nothing of them.
        host.kill();
        host.shell("rm -rf /run/case/sys/fs/bpf/bpfd");
        host.start();
        assert!(!counts(&host, "any", "entries"));
        assert!(counts_removed(&host));
        host.check();
        host.bpfctl("unload any").ok();
    }
}

#[test]
fn a_fentry_program_attaches_to_no_other_function_than_it_was_loaded_for() {
    let host = Host::new();
    let object = example("fentry-count");
    host.bpfctl(&format!("load --path {object} --name f")).ok();
    assert_snapshot!(host.refuses(2, "attach f fentry -f vfs_unlink"), @"
    error: cannot attach `f` to kernel function `vfs_unlink`
    cause: the target of `on_entry` was fixed when it was loaded: kernel function `do_unlinkat`
    hint: load the object again with the other target, as in `bpfctl load … --name OTHER fentry …`
    ");
    assert_snapshot!(host.refuses(2, "attach f/on_exit fentry"), @"
    error: cannot attach `f` to its fentry
    cause: `on_exit` is a fexit program: it cannot attach to `fentry:do_unlinkat`
    ");
    host.check();
}
