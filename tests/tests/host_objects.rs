//! Objects as libbpf takes them: what their bytes lack, or declare in an unusual way, keeps no program from running.

use bpfd_tests::{Host, broken, example, proprietary};
use insta::assert_snapshot;

#[test]
fn an_element_of_a_flexible_array_is_read_where_this_kernel_has_it() {
    let host = Host::new();
    let load = format!("load --path {} --program on_enter --name args tracepoint", broken("flexible"));
    assert_snapshot!(host.bpfctl(&load).ok(), @"
    PROGRAM        TYPE        HOOK                               PRIO  POS  STATE
    args/on_enter  tracepoint  tracepoint:raw_syscalls/sys_enter  -     -    ATTACHED
    ");
}

#[test]
fn an_object_without_a_licence_loads_and_may_not_call_helpers_for_gpl_programs() {
    let host = Host::new();
    let load = |program: &str| format!("load --path {} --program {program} xdp -i uplink", broken("no_license"));
    host.bpfctl(&load("pass")).ok();
    let refused = host.refuses(5, &load("reads"));
    let (shown, _log) = refused.split_once("hint:").unwrap();
    assert_snapshot!(shown, @"
    reading the object
    loading programs
    error: the kernel's verifier rejected `reads`
      --> ./no_license.c:12:2, instruction 6
       |
    12 | bpf_probe_read_kernel(&word, sizeof(word), ctx);
       = cannot call GPL-restricted function from non-GPL compatible program: bpf_probe_read_kernel#113
       = that is: the helper may only be called by programs under a licence that is compatible with the GPL
    cause: ./no_license.c:12:2: cannot call GPL-restricted function from non-GPL compatible program: bpf_probe_read_kernel#113
    ");
}

#[test]
fn an_empty_licence_is_called_so() {
    let host = Host::fused();
    host.counter("gpl", 10, 1);
    let load = format!("load --path {} --program pass xdp -i uplink", broken("no_license"));
    assert_snapshot!(host.refuses(8, &load), @"
    reading the object
    loading programs
    attaching
    error: cannot load `no_license`
    cause: `pass` cannot be fused with other programs: `count` is under a GPL-compatible licence and `pass` has an empty licence: they cannot be one program
    hint: in mode `fused` all programs of an interface are combined into one; attach this program to an interface without other programs
    ");
}

#[test]
fn an_object_without_types_runs_where_its_chain_needs_none() {
    let host = Host::fused();
    host.bpfctl(&format!("load --path {} --name untyped xdp -i uplink", broken("no_btf"))).ok();
    // Beside one that has them.
    host.counter("typed", 60, 1);
    host.ping(10);
    assert_eq!(host.counted("typed"), 10);
}

#[test]
fn a_function_without_types_is_no_hindrance_unless_types_are_needed() {
    let host = Host::fused();
    let load = |program: &str| format!("load --path {} --program {program} xdp -i uplink", broken("no_func_info"));
    host.bpfctl(&load("calls")).ok();
    assert_snapshot!(host.refuses(1, &load("loops")), @"
    reading the object
    error: cannot load `no_func_info`
    cause: `loops` hands a callback to the kernel, which needs type information of all functions; `bare` has none: compile it with `-g`
    ");
}

#[test]
fn types_that_the_kernel_refuses_are_left_out_unless_they_are_needed() {
    let host = Host::fused();
    let refused_types = |object: String| {
        let mut bytes = std::fs::read(object).unwrap();
        // No name of a struct for the kernel.
        let at = bytes.windows(7).position(|text| text == b"xdp_md\0").unwrap();
        bytes[at + 3] = b'-';
        std::fs::write(host.path("/run/refused-types.o"), bytes).unwrap();
        "load --path /run/refused-types.o"
    };
    let load = refused_types(example("xdp-counter"));
    host.bpfctl(&format!("{load} --name counter xdp -i uplink")).ok();
    host.ping(10);
    assert_eq!(host.counted("counter"), 10);
    let load = refused_types(broken("subprograms"));
    host.bpfctl(&format!("{load} --program calls_both xdp -i uplink")).ok();
    assert_snapshot!(host.refuses(1, &format!("{load} --program loops xdp -i uplink")), @"
    reading the object
    loading programs
    error: cannot load `refused-types`
    cause: cannot use the object: `loops` hands a callback to the kernel, which needs type information, and the kernel refused the object's: Invalid argument (os error 22) [2] STRUCT xdp-md size=24 vlen=6 Invalid name
    ");
}

#[test]
fn a_program_that_the_verifier_rejects_in_its_chain_alone_is_shown_as_one_of_a_load() {
    let host = Host::fused();
    host.counter("first", 10, 1);
    let load = format!("load --path {} xdp -i uplink", broken("deep"));
    let rejected = host.unchanged(|| host.bpfctl(&load));
    let (_, hint) = rejected.stderr.split_once("`bpfctl get log ").unwrap();
    let log = format!("get log {}", hint.split_once('`').unwrap().0);
    assert_snapshot!(rejected.refused(5), @"
    reading the object
    loading programs
    attaching
    error: the kernel's verifier rejected `deepest` in this chain, though it accepts it alone
     --> ./deep.c:9:42, instruction 84
      |
    9 | FUNCTION d6(struct xdp_md *ctx) { return d7(ctx) + (ctx->ingress_ifindex == 9999); }
      = the call stack of 9 frames is too deep
      = that is: functions call each other deeper than the 8 levels that the kernel allows; a program that is fused with others is one level down
    cause: ./deep.c:9:42: the call stack of 9 frames is too deep
    hint: let the compiler put functions into their callers: `static __always_inline`
    hint: `bpfctl get log UID` prints the whole log
    ");
    assert!(host.bpfctl(&log).ok().contains("frames"));
    host.ping(10);
    assert_eq!(host.counted("first"), 10);
}

#[test]
fn a_program_that_runs_alone_is_named_to_whoever_comes_after_it() {
    let host = Host::fused();
    host.bpfctl(&format!("load --path {} --name alone xdp -i uplink", broken("deep"))).ok();
    let load = format!("load --path {} --name second xdp -i uplink", example("xdp-pass"));
    assert_snapshot!(host.refuses(5, &load), @"
    reading the object
    loading programs
    attaching
    error: the kernel's verifier rejected `deepest` in this chain, though it accepts it alone
     --> ./deep.c:9:42, instruction 68
      |
    9 | FUNCTION d6(struct xdp_md *ctx) { return d7(ctx) + (ctx->ingress_ifindex == 9999); }
      = the call stack of 9 frames is too deep
      = that is: functions call each other deeper than the 8 levels that the kernel allows; a program that is fused with others is one level down
    cause: ./deep.c:9:42: the call stack of 9 frames is too deep
    hint: link `alone/deepest@uplink:xdp` of root cannot run beside other programs: detach it (`bpfctl detach alone/deepest@uplink:xdp`), or choose another interface
    hint: `bpfctl get log UID` prints the whole log
    ");
    // As it says.
    host.bpfctl("detach alone/deepest@uplink:xdp").ok();
    host.bpfctl(&load).ok();
    host.bpfctl("unload --all").ok();
    // A licence is in the way in the same words.
    std::fs::write(host.path("/run/closed.o"), proprietary("xdp-pass")).unwrap();
    host.bpfctl("load --path /run/closed.o --name closed xdp -i uplink").ok();
    let load = format!("load --path {} --name second xdp -i uplink", example("xdp-counter"));
    assert_snapshot!(host.refuses(8, &load), @"
    reading the object
    loading programs
    attaching
    error: cannot load `second`
    cause: `pass` cannot be fused with other programs: `count` is under a GPL-compatible licence and `pass` is under `Proprietary`: they cannot be one program
    hint: link `closed/pass@uplink:xdp` of root cannot run beside other programs: detach it (`bpfctl detach closed/pass@uplink:xdp`), or choose another interface
    ");
}

#[test]
fn program_arrays_and_maps_of_maps_start_with_what_the_object_puts_into_them() {
    let host = Host::fused();
    host.bpfctl(&format!("load --path {} --name tails --program entry xdp -i uplink", broken("tail_calls"))).ok();
    // What the tail calls lead to comes back to the chain.
    host.counter("after", 90, 1);
    host.ping(10);
    let counts = ["entries", "firsts", "seconds"].map(|map| host.sum("tails", map));
    assert_eq!((counts, host.counted("after")), ([10; 3], 10));
    // Only what was asked for is shown, and is pinned.
    assert_snapshot!(host.bpfctl("list").ok(), @"
    PROGRAM      TYPE  HOOK        PRIO  POS  STATE
    after/count  xdp   uplink:xdp  90    2    ATTACHED
    tails/entry  xdp   uplink:xdp  50    1    ATTACHED
    ");
}

#[test]
fn tail_calls_and_callbacks_run_in_a_chain_with_others() {
    let host = Host::fused();
    host.counter("before", 10, 1);
    host.bpfctl(&format!("load --path {} --name loops --program loops xdp -i uplink", broken("subprograms"))).ok();
    host.counter("after", 90, 1);
    host.ping(10);
    assert_eq!([host.counted("before"), host.counted("after")], [10, 10]);
}

#[test]
fn only_what_the_chosen_program_reaches_is_judged() {
    let host = Host::new();
    let load = |program: &str| format!("load --path {} --program {program} xdp -i uplink", broken("externs"));
    host.bpfctl(&load("plain")).ok();
    let cause = |program: &str| {
        let said = host.refuses(1, &load(program));
        said.lines().find_map(|line| line.strip_prefix("cause: ")).unwrap().to_owned()
    };
    assert_snapshot!(cause("hash"), @"`hash` needs `bpf_xdp_metadata_of_tomorrow`, which the object does not define, nor this kernel as a function: bpfd links no variables of the kernel and no other objects. Let the object declare it `__weak` to run without it");
    assert_snapshot!(cause("asks"), @"`asks` needs `elapsed`, which the object does not define, nor this kernel as a function: bpfd links no variables of the kernel and no other objects. Let the object declare it `__weak` to run without it");
    assert_snapshot!(cause("jumps"), @"the initial values of map `wrong` cannot be used: one is no program");
    // Hosts differ in whether they have the kernel's configuration.
    let missing = cause("demanding");
    assert!(missing.starts_with("the object needs `CONFIG_THAT_IS_NEEDED`"), "{missing}");
    assert_eq!(missing.matches("CONFIG_THAT_IS_NEEDED").count(), 1, "{missing}");
}

#[test]
fn values_of_the_kernels_configuration_are_what_the_kernel_states() {
    let host = Host::new();
    let run = |program: &str| {
        host.bpfctl(&format!("load --path {} --name asks --program {program} xdp -i uplink", broken("externs"))).ok();
        host.ping(1);
        let seen = host.sum("asks", "seen");
        host.bpfctl("unload asks").ok();
        seen
    };
    // Patch levels of distributions' kernels stand where no test should look for them: the series is in `uname -r`.
    let release = host.shell("uname -r");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u64>().unwrap());
    let series = numbers.next().unwrap() << 8 | numbers.next().unwrap();
    let seen = run("configured");
    assert_eq!((seen >> 16, seen & 3), (series, 0b11));
    // Weak symbols that this kernel lacks are absent.
    assert_eq!(run("careful"), 2);
    let options = host.shell("zcat /proc/config.gz 2>/dev/null || cat /boot/config-$(uname -r) 2>/dev/null || true");
    let option = |name: &str| {
        let line = options.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned())
    };
    let Some(hz) = option("CONFIG_HZ") else {
        println!("skipped: this host does not have the kernel's configuration");
        return;
    };
    let text = option("CONFIG_CC_VERSION_TEXT").map_or(0, |text| u64::from(text.as_bytes()[0]));
    assert_eq!(run("tuned"), hz.parse::<u64>().unwrap() << 16 | 1 << 8 | text);
}

#[test]
fn functions_of_the_kernel_are_called() {
    let host = Host::new();
    let has = |name: &str| host.shell(&format!("grep -c ' {name}$' /proc/kallsyms || true")).trim() != "0";
    let run = |program: &str| {
        host.bpfctl(&format!("load --path {} --name calls --program {program} xdp -i uplink", broken("externs"))).ok();
        host.ping(1);
        let seen = host.sum("calls", "seen");
        host.bpfctl("unload calls").ok();
        seen
    };
    // A weak function is called where the kernel has it, and missed nowhere.
    assert_eq!(run("adapts"), if has("bpf_dynptr_from_xdp") { 4 } else { 3 });
    match has("bpf_rcu_read_lock") {
        true => assert_eq!(run("locks"), 7),
        false => {
            let load = format!("load --path {} --program locks xdp -i uplink", broken("externs"));
            assert!(host.refuses(1, &load).contains("`locks` needs `bpf_rcu_read_lock`"));
        }
    }
}

#[test]
fn a_call_of_a_function_that_the_kernel_lacks_is_the_verifiers_to_judge() {
    let host = Host::new();
    let refused = host.refuses(5, &format!("load --path {} --program careless xdp -i uplink", broken("externs")));
    let (shown, _log) = refused.split_once("hint:").unwrap();
    assert_snapshot!(shown, @"
    reading the object
    loading programs
    error: the kernel's verifier rejected `careless`
      --> ./externs.c:74:9, instruction 0
       |
    74 | return bpf_function_of_tomorrow(ctx);
       = invalid func unknown#2002000000
       = that is: the program calls a function that it declares `__weak` and that neither the object nor bpfd supplies
    cause: ./externs.c:74:9: invalid func unknown#2002000000
    ");
}

#[test]
fn variables_with_parts_are_set_by_json_or_by_their_bytes() {
    let host = Host::new();
    let settings = [
        ("limits", r#"{"high":5,"strict":true}"#),
        ("pairs", r#"[{},{"low":"0x2","mode":"SOFT"}]"#),
        ("flags", "[false,false,1]"),
        ("grid", "[[],[0,0,4]]"),
        ("names", r#"["a","b"]"#),
        ("whole", "hex:06000000"),
    ];
    let settings: Vec<String> = settings.iter().map(|(name, value)| format!("--set {name}={value}")).collect();
    let load = format!("load --path {} --name set {} xdp -i uplink", broken("settings"), settings.join(" "));
    host.bpfctl(&load).ok();
    host.ping(1);
    assert_eq!(host.sum("set", "seen"), 5 + 1 + 20 + 300 + 1000 + 40_000 + 100_000 + 6_000_000);
    let cause = |setting: &str| {
        let said = host.refuses(2, &format!("load --path {} --set {setting}", broken("settings")));
        said.lines().find_map(|line| line.strip_prefix("cause: ")).unwrap().to_owned()
    };
    for (setting, expected) in [
        (
            r#"limits={"lo":1}"#,
            "`struct limits limits` has no member `lo`; it has `low`, `high`, `strict`, `either`, `flag`, `mode`",
        ),
        (r#"limits={"low":-1}"#, "`-1` is out of range for `struct limits limits.low`: 0 to 4294967295"),
        (r#"limits={"flag":2}"#, "`2` is out of range for `struct limits limits.flag`: 0 to 1"),
        (r#"limits={"either":1}"#, "`struct limits limits.either` is a union: give its bytes, `hex:…`"),
        ("limits=1", "`struct limits limits` is set by JSON: `{\"member\": value}`; or by its bytes, `hex:…`"),
        ("grid=[[1,2,3,4]]", "4 values do not fit `__u8 grid[2][3][0]`"),
        ("whole=1", "`union whole` is a union: give its bytes, `hex:…`"),
        ("whole=hex:01", "`union whole` has 4 bytes: write two hexadecimal digits for each of them after `hex:`"),
    ] {
        assert_eq!(cause(setting), expected);
    }
}

#[test]
fn a_program_or_section_that_is_nearly_named_is_suggested() {
    let host = Host::new();
    let object = example("xdp-counter");
    assert_snapshot!(host.refuses(3, &format!("load --path {object} --program cuont xdp -i uplink")), @"
    reading the object
    error: cannot load `xdp-counter.bpf`
    cause: object has no program `cuont`; it has `count` (section `xdp`)
    hint: did you mean `count`?
    ");
    assert_snapshot!(host.refuses(3, &format!("load --path {object} --section-name counts xdp -i uplink")), @"
    reading the object
    error: cannot load `xdp-counter.bpf`
    cause: object has no section or function `counts`; it has `count` (section `xdp`)
    hint: did you mean `count`?
    ");
}

#[test]
fn an_interface_or_a_tracepoint_that_is_nearly_named_is_suggested() {
    let host = Host::new();
    let load = format!("load --path {} xdp -i uplnk", example("xdp-counter"));
    assert_snapshot!(host.refuses(3, &load), @"
    reading the object
    loading programs
    attaching
    error: cannot load `xdp-counter.bpf`
    cause: no interface `uplnk` in network namespace `host`
    hint: did you mean `uplink`? `ip link` shows interfaces; use `--when-present` to attach when the interface appears
    ");
    assert_snapshot!(host.refuses(3, "chain show uplinks"), @"
    error: no interface `uplinks` in network namespace `host`
    hint: did you mean `uplink`? `ip link` shows interfaces
    ");
    let load = format!("load --path {} tracepoint sched/sched_swich", example("tracepoint-count"));
    assert_snapshot!(host.refuses(3, &load), @"
    reading the object
    loading programs
    attaching
    error: cannot load `tracepoint-count.bpf`
    cause: this kernel has no tracepoint `sched/sched_swich`
    hint: did you mean `sched/sched_switch`? `ls /sys/kernel/tracing/events/sched` shows those there are
    ");
}

#[test]
fn whatever_is_called_so_is_shown() {
    let host = Host::new();
    host.bpfctl(&format!("load --path {} --name a xdp -i uplink", example("xdp-counter"))).ok();
    for (name, kind) in [("a", "app"), ("a/count", "link"), ("a/count@uplink:xdp", "link")] {
        assert_eq!(host.bpfctl(&format!("get {name}")).ok(), host.bpfctl(&format!("get {kind} {name}")).ok(), "{name}");
    }
    assert_snapshot!(host.refuses(3, "get registry/b:1"), @"
    error: no app, link or stored image `registry/b:1`
    hint: `bpfctl list` shows apps and links, `bpfctl image ls` images; `bpfctl get log ID` prints a log
    ");
}

#[test]
fn an_object_that_is_stored_is_not_stored_again_and_one_that_nothing_uses_goes() {
    let host = Host::new();
    let load = |name: &str, object: &str| host.bpfctl(&format!("load --path {object} --name {name}")).ok();
    let stored = || host.shell("cd /run/case/var/lib/bpfd/objects && ls -i | sort -k 2");
    load("a", &example("xdp-counter"));
    let before = stored();
    load("b", &example("xdp-counter"));
    assert_eq!(stored(), before);
    load("c", &example("xdp-pass"));
    host.bpfctl("unload c").ok();
    assert_eq!(stored().lines().count(), 2);
    host.shell("touch -d '2 hours ago' /run/case/var/lib/bpfd/objects/*");
    load("d", &example("xdp-counter"));
    assert_eq!(stored(), before);
}
