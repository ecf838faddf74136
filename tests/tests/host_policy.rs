//! Rules of an administrator on the built daemon: callers of other users and groups, each condition, files that change and files that are
//! bad, what a new policy refuses, and names that only a name service knows.
//!
//! Long because the words of each refusal stand whole beside what was asked.
#![expect(clippy::unwrap_used, reason = "a case fails by panicking, its helpers too")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bpfd_client::proto::v1 as pb;
use bpfd_tests::{Host, Output, broken, eventually, example};
use insta::assert_snapshot;
use rustix::process::{Pid, Signal, kill_process};

/// The daemon's configuration.
const ETC: &str = "/run/case/etc/bpfd";
/// Whom `make_group` knows as `member`, in group 815, `bpfd`.
const MEMBER: u32 = 4711;

/// Members of `bpfd` bring files of their own, at some places.
const RULES: &str = r#"version = 1
[[rule]]
id = "team"
effect = "allow"
who = [{ user = "member" }]
verbs = ["load", "attach", "update", "detach", "unload", "list"]
programs = { types = ["xdp"], reach = "kernel" }
interfaces = { names = ["up*"], netns = ["host"] }
priority = { min = 100, max = 499 }
must_proceed_on = ["pass"]
source = { files = "any" }
"#;

fn write(host: &Host, file: &str, text: &str) {
    let path = host.path(&format!("{ETC}/{file}"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Whole at once, as a careful editor does.
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, &path).unwrap();
}

fn host(rules: &str) -> Host {
    let mut host = Host::without_daemon();
    host.make_group();
    write(&host, "policy.toml", rules);
    host.start();
    host
}

fn reload(host: &Host) {
    host.bpfctl("policy reload").ok();
}

/// What the member is refused, all of it.
#[track_caller]
fn refused(host: &Host, line: &str) -> String {
    host.unchanged(|| host.bpfctl_as_member(line)).refused(4)
}

/// The first lines.
fn first(text: &str, lines: usize) -> String {
    text.lines().take(lines).map(|line| format!("{line}\n")).collect()
}

fn pass() -> String {
    format!("load --path {} --name p", example("xdp-pass"))
}

#[test]
fn whose_program_is_in_the_way_is_told_as_far_as_the_caller_may_know() {
    let mut host = Host::without_daemon();
    host.make_group();
    host.set_fused();
    write(&host, "policy.toml", RULES);
    host.start();
    let load = |name: &str| format!("load --path {} --name {name} --program deepest xdp -i uplink", broken("deep"));
    host.bpfctl(&load("alone")).ok();
    let hint = || {
        let said = host.unchanged(|| host.bpfctl_as_member(&format!("{} xdp -i uplink --priority 200", pass())));
        said.refused(5).lines().find_map(|line| line.strip_prefix("hint: ")).unwrap().to_owned()
    };
    assert_snapshot!(hint(), @"link `alone/deepest@uplink:xdp` of root cannot run beside other programs: ask root to detach it, or choose another interface");
    write(&host, "policy.toml", &RULES.replace(", \"list\"", ""));
    reload(&host);
    assert_snapshot!(hint(), @"the program of another user is in the way: choose another interface, or ask root");
    // One's own.
    host.bpfctl("unload alone").ok();
    host.bpfctl_as_member(&format!("{} --priority 100", load("own"))).ok();
    assert_snapshot!(hint(), @"link `own/deepest@uplink:xdp` of member cannot run beside other programs: detach it (`bpfctl detach own/deepest@uplink:xdp`), or choose another interface");
}

#[test]
fn a_member_may_what_its_rule_says_and_nothing_else() {
    let host = host(RULES);
    let pass = pass();
    host.bpfctl_as_member(&format!("{pass} xdp -i uplink --priority 100")).ok();
    host.bpfctl_as_member("update p/pass@uplink:xdp --priority 499").ok();
    host.bpfctl_as_member("list").ok();
    assert_snapshot!(refused(&host, "update p/pass@uplink:xdp --priority 500"), @"
    error: member may not update
    cause: rule `team` allows it, except priority 500: it is for 100 to 499
    hint: ask for what the rule allows, or ask an administrator
    ");
    assert_snapshot!(refused(&host, "attach p xdp -i lo --priority 100"), @"
    error: member may not attach
    cause: rule `team` allows it, except interface lo: it is for up*
    hint: ask for what the rule allows, or ask an administrator
    ");
    assert_snapshot!(refused(&host, "attach p xdp -i uplink"), @"
    error: member may not attach
    cause: rule `team` allows it, except priority 50: it is for 100 to 499
    hint: ask for what the rule allows, or ask an administrator
    ");
    // A dry run is refused as the real call is.
    let other = format!("load --path {} --name q xdp -i uplink", example("xdp-counter"));
    for line in ["attach p xdp -i uplink", "update p/pass@uplink:xdp --priority 99", &other] {
        assert_eq!(refused(&host, &format!("{line} --dry-run")), refused(&host, line), "{line}");
    }
    assert_snapshot!(refused(&host, "attach p xdp -i far --netns far --priority 100"), @"
    error: member may not attach
    cause: rule `team` allows it, except interface far: it is for up*
    hint: ask for what the rule allows, or ask an administrator
    ");
    assert_snapshot!(refused(&host, "attach p xdp -i uplink --priority 100 --proceed-on drop"), @"
    error: member may not attach
    cause: rule `team` allows it, except proceed-on: the chain must go on after `pass`
    hint: ask for what the rule allows, or ask an administrator
    ");
    let tracepoint = format!("load --path {} tracepoint", example("tracepoint-count"));
    assert_snapshot!(refused(&host, &tracepoint), @"
    error: member may not attach
    cause: rule `team` allows it, except program type tracepoint: it is for xdp
    hint: ask for what the rule allows, or ask an administrator
    ");
    assert_snapshot!(refused(&host, "load --image registry/team/app:1"), @"
    error: member may not load
    cause: rule `team` allows it, except images: it is for files
    hint: ask for what the rule allows, or ask an administrator
    ");
    // Somebody in the group, and of no rule.
    assert_snapshot!(host.bpfctl_as(4713, 4713, &[815], "list").refused(4), @"
    error: uid 4713 may not list
    cause: no rule is about uid 4713
    hint: `bpfctl whoami` shows whom bpfd takes you for; ask an administrator
    ");
    // The other user's app, and the way round by root's.
    host.counter("r", 7, 1);
    assert_snapshot!(refused(&host, "detach r/count@uplink:xdp"), @"
    error: member may not detach
    cause: link `r/count@uplink:xdp` belongs to root
    hint: ask its owner, or root
    ");
    assert_snapshot!(refused(&host, "unload r"), @"
    error: member may not unload
    cause: app `r` belongs to root
    hint: ask its owner, or root
    ");
    host.bpfctl_as_member("unload p").ok();
}

#[test]
fn a_rule_that_denies_is_about_the_interface_whatever_name_was_asked_for() {
    let deny = "[[rule]]\nid = \"mgmt\"\neffect = \"deny\"\nverbs = [\"attach\", \"detach\"]\ninterfaces = { names = [\"uplink\"], netns = [\"host\"] }\n";
    let host = host("version = 1\n");
    // Another name of the daemon's own network namespace.
    host.shell("touch /run/netns/same; mount --bind /proc/self/ns/net /run/netns/same");
    host.counter("r", 7, 1);
    write(&host, "policy.toml", &format!("version = 1\n{deny}"));
    reload(&host);
    let pass = pass();
    let says = |output: Output| output.refused(4).lines().find(|line| line.starts_with("cause")).unwrap().to_owned();
    let denied = "cause: rule `mgmt` denies it";
    assert_eq!(says(host.bpfctl(&format!("{pass} xdp -i uplink"))), denied);
    assert_eq!(says(host.bpfctl(&format!("{pass} xdp --netns same -i uplink"))), denied);
    // Unloading the app would take its link off the interface.
    assert_eq!(says(host.bpfctl("unload r")), denied);
    host.bpfctl(&format!("{pass} xdp -i lo")).ok();
    write(&host, "policy.toml", "version = 1\n");
    reload(&host);
    host.bpfctl("unload --all").ok();
    host.shell("umount /run/netns/same; rm /run/netns/same");
}

#[test]
fn files_are_read_again_when_they_change_and_a_bad_one_changes_nothing() {
    let mut host = host(RULES);
    let state = |host: &Host| host.ask(async |daemon| daemon.info(pb::GetInfoRequest {}).await);
    let list = |host: &Host| host.bpfctl_as_member("list").code;
    assert_eq!(list(&host), 0);
    // By itself.
    write(
        &host,
        "policy.d/no.toml",
        "version = 1\n[[rule]]\nid = \"no\"\neffect = \"deny\"\nverbs = [\"list\"]\nwho = [{ group = \"bpfd\" }]\n",
    );
    assert_eq!(eventually(|| list(&host), |code| *code == 4), 4, "{}", host.log());
    fs::remove_file(host.path(&format!("{ETC}/policy.d/no.toml"))).unwrap();
    assert_eq!(eventually(|| list(&host), |code| *code == 0), 0, "{}", host.log());
    // Bad: with file, line and column, and the rules stay.
    write(&host, "policy.d/bad.toml", "version = 1\n[[rule]]\nid = \"bad\"\neffect = \"alow\"\n");
    let degraded = eventually(|| state(&host), |info| info.state() == pb::DaemonState::Degraded);
    let cause = "policy is refused at /run/case/etc/bpfd/policy.d/bad.toml:4:10: unknown variant `alow`, expected `allow` or `deny`";
    assert_eq!(degraded.causes, [format!("{cause}; the policy before it holds")]);
    host.bpfctl_as_member(&format!("{} xdp -i uplink --priority 100", pass())).ok();
    // By a signal, and at a start: then nothing is added, and what runs runs on.
    kill_process(Pid::from_raw(host.pid().try_into().unwrap()).unwrap(), Signal::HUP).unwrap();
    host.stop();
    host.start();
    assert_eq!(state(&host).causes, [format!("{cause}; the last good policy holds, and nothing is added")]);
    assert_snapshot!(refused(&host, "attach p xdp -i uplink --priority 101").replace(cause, "BAD"), @"
    error: member may not attach
    cause: the policy files were bad when bpfd started: BAD
    hint: correct the file: bpfd reads it again by itself, or with `bpfctl policy reload`
    ");
    assert_eq!(host.bpfctl("attach p xdp -i lo").code, 4);
    host.ping(1);
    host.bpfctl_as_member("unload p").ok();
    // A file that others could have written is bad, too.
    let file = host.path(&format!("{ETC}/policy.d/bad.toml"));
    fs::write(&file, "version = 1\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let mode = |info: &pb::GetInfoResponse| info.causes.iter().any(|cause| cause.contains("its mode is 666"));
    assert!(mode(&eventually(|| state(&host), mode)), "{:?}", state(&host).causes);
    fs::remove_file(&file).unwrap();
    let ready = eventually(|| state(&host), |info| info.state() == pb::DaemonState::Ready);
    assert_eq!(ready.causes, Vec::<String>::new());
    host.bpfctl_as_member(&format!("{} xdp -i uplink --priority 100", pass())).ok();
}

#[test]
fn what_a_new_policy_refuses_is_unauthorised_stays_and_goes_when_it_is_enforced() {
    let mut host = host(RULES);
    host.counter("r", 7, 1);
    host.bpfctl_as_member(&format!("{} xdp -i uplink --priority 100", pass())).ok();
    let states = |host: &Host| {
        let (apps, links) = host.ask(async |daemon| {
            let apps = daemon.apps(pb::ListAppsRequest::default()).await?;
            Ok((apps, daemon.links(pb::ListLinksRequest::default()).await?))
        });
        let apps = apps.into_iter().map(|app| (app.name.clone(), app.state().as_str_name().to_owned()));
        let links = links.into_iter().map(|link| (link.name.clone(), link.state().as_str_name().to_owned()));
        apps.chain(links).filter(|(_, state)| state.ends_with("UNAUTHORISED")).map(|(name, _)| name).collect::<Vec<_>>()
    };
    let nothing = Vec::<String>::new();
    assert_eq!(states(&host), nothing);
    // The link alone, then the app and its link.
    write(&host, "policy.toml", &RULES.replace("min = 100", "min = 200"));
    reload(&host);
    assert_eq!(states(&host), ["p/pass@uplink:xdp"]);
    write(&host, "policy.toml", &RULES.replace("source = { files = \"any\" }", "source = { images = \"any\" }"));
    reload(&host);
    assert_eq!(states(&host), ["p", "p/pass@uplink:xdp"]);
    // It runs on, also after a restart.
    host.stop();
    host.start();
    assert_eq!(states(&host), ["p", "p/pass@uplink:xdp"]);
    let shown = host.ask(async |daemon| daemon.link(pb::GetLinkRequest { link: "p".to_owned() }).await);
    assert_eq!(shown.position, Some(2), "{shown:?}");
    assert_snapshot!(shown.cause, @"the policy would refuse it now: member may not load: rule `team` allows it, except files: it is for images");
    // A name that nobody answers for is no reason.
    assert_eq!(host.bpfctl_as_member("policy enforce").code, 4);
    assert_snapshot!(first(&host.bpfctl("policy enforce --dry-run").stdout, 5), @"
    REFUSED                   WHY
    app `p`                   member may not load: rule `team` allows it, except files: it is for images
    link `p/pass@uplink:xdp`  member may not load: rule `team` allows it, except files: it is for images

    would detach p/pass@uplink:xdp
    ");
    assert_eq!(states(&host).len(), 2);
    host.bpfctl("policy enforce").ok();
    assert_eq!(states(&host), nothing);
    let apps = host.ask(async |daemon| daemon.apps(pb::ListAppsRequest::default()).await);
    assert_eq!(apps.iter().map(|app| app.name.as_str()).collect::<Vec<_>>(), ["r"]);
    host.bpfctl("policy enforce").ok();
}

#[test]
fn a_link_that_waits_is_not_attached_once_the_policy_refuses_it() {
    let host = host(&RULES.replace("\"up*\"", "\"up*\", \"late\""));
    host.bpfctl_as_member(&format!("{} xdp -i late --when-present --priority 100", pass())).ok();
    write(&host, "policy.toml", RULES);
    reload(&host);
    host.shell("ip link add late type veth peer name late2; ip link set late up");
    let link = || host.ask(async |daemon| daemon.link(pb::GetLinkRequest { link: "p".to_owned() }).await);
    host.await_quiet();
    assert_eq!((link().state(), link().position), (pb::LinkState::Unauthorised, None), "{}", host.log());
    assert!(!host.shell("ip link show late").contains("xdp"));
    // Allowed again, it is attached when its interface comes anew.
    write(&host, "policy.toml", &RULES.replace("\"up*\"", "\"up*\", \"late\""));
    reload(&host);
    host.shell("ip link del late; ip link add late type veth peer name late2; ip link set late up");
    let attached = eventually(link, |link| link.state() == pb::LinkState::Attached);
    assert_eq!(attached.state(), pb::LinkState::Attached, "{attached:?}{}", host.log());
    host.shell("ip link del late");
}

#[test]
fn who_one_is_and_what_one_may_can_be_asked() {
    let host = host(RULES);
    assert_snapshot!(host.bpfctl_as_member("whoami").stdout, @"
    user:    member (4711)
    groups:  815, 4711
    unit:    none
    rules:   team
    ");
    let can = |line: &str| host.bpfctl_as_member(&format!("policy can-i {line}"));
    assert_snapshot!(can("attach xdp -i uplink --priority 100 --file any").stdout, @"yes: rule `team` allows it");
    assert_snapshot!(can("attach xdp -i uplink --priority 99 --file any").stdout, @"
    no: rule `team` allows it, except priority 99: it is for 100 to 499
    hint: ask for what the rule allows, or ask an administrator
    ");
    assert_eq!(can("attach xdp -i lo --file any").code, 4);
    assert_eq!(can("atach xdp").code, 2);
    // About others only root may ask.
    assert_eq!(can("list --as root").code, 4);
    assert_eq!(host.bpfctl_as_member("policy show").code, 4);
    let asks = |line: &str| host.bpfctl(&format!("policy can-i {line}"));
    assert_eq!((asks("list --as member").code, asks("list --as viewer").code), (0, 4));
    assert_eq!(asks("list --as nobody-of-this-name").code, 2);
    assert_snapshot!(asks("load xdp --file any --as member").stdout, @"yes: rule `team` allows it, with reach `kernel`");
    assert_snapshot!(host.bpfctl("policy show").stdout, @r#"
    files:     /run/case/etc/bpfd/policy.toml
    signers:   none
    images:    none
    unvetted:  xdp, tc alone, with reach `packet`

    # built in
    [[rule]]
    id = "builtin-root"
    effect = "allow"
    who = [{ user = "root" }]
    verbs = ["pull", "load", "attach", "update", "detach", "unload", "list", "map-read", "map-write", "other-owner"]

    [[rule]]
    id = "team"
    effect = "allow"
    who = [{ user = "member" }]
    verbs = ["load", "attach", "update", "detach", "unload", "list"]
    programs = { types = ["xdp"], reach = "kernel" }
    interfaces = { names = ["up*"], netns = ["host"] }
    priority = { min = 100, max = 499 }
    must_proceed_on = ["pass"]
    source = { files = "any" }
    "#);
}

#[test]
fn users_that_only_a_name_service_knows_count_and_no_request_waits_for_it() {
    // A module of its own in the place of one that every glibc brings and nobody uses.
    let module = r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <nss.h>
        #include <pwd.h>
        #include <grp.h>
        #include <string.h>
        #include <unistd.h>
        extern char *program_invocation_short_name;
        // The daemon's worker alone: setpriv and others ask, too.
        static void slow(void) {
            while (!strcmp(program_invocation_short_name, "bpfd") && access("/run/hang", F_OK) == 0) usleep(10000);
        }
        enum nss_status _nss_hesiod_getpwnam_r(const char *name, struct passwd *p, char *b, size_t n, int *e) {
            slow();
            if (strcmp(name, "remote")) { *e = ENOENT; return NSS_STATUS_NOTFOUND; }
            memset(p, 0, sizeof *p); b[0] = 0;
            p->pw_name = "remote"; p->pw_passwd = p->pw_gecos = p->pw_dir = p->pw_shell = b;
            p->pw_uid = 4799; p->pw_gid = 4799;
            return NSS_STATUS_SUCCESS;
        }
        enum nss_status _nss_hesiod_getgrnam_r(const char *name, struct group *g, char *b, size_t n, int *e) {
            slow();
            *e = ENOENT; return NSS_STATUS_NOTFOUND;
        }
    "#;
    let mut host = Host::without_daemon();
    host.make_group();
    fs::write(host.path("/run/nss.c"), module).unwrap();
    host.shell(
        "cc -shared -fPIC -o /run/nss.so /run/nss.c
         mount --bind /run/nss.so $(ls /lib/*/libnss_hesiod.so.2 | head -1)
         printf 'passwd: files hesiod\\ngroup: files hesiod\\n' >/run/nsswitch.conf
         mount --bind /run/nsswitch.conf /etc/nsswitch.conf",
    );
    write(&host, "policy.toml", &RULES.replace("\"member\"", "\"remote\""));
    host.start();
    let list = |host: &Host| host.bpfctl_as(4799, 4799, &[815], "list").code;
    assert_eq!((list(&host), host.bpfctl_as_member("list").code), (0, 4), "{}", host.log());
    // It hangs: a reload keeps the number that was known, and requests go on.
    host.shell("touch /run/hang");
    let reloading = host
        .command("/run/bin/bpfctl")
        .args(["policy", "reload"])
        .env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock")
        .spawn();
    assert_eq!(list(&host), 0);
    assert!(reloading.unwrap().wait().unwrap().success());
    assert_eq!(list(&host), 0);
    // At a start too.
    host.stop();
    host.start();
    assert_eq!((list(&host), host.bpfctl_as_member("list").code), (0, 4));
    host.shell("rm /run/hang");
}

/// Control groups as systemd makes them for units, in a slice of this process's own.
struct Units(PathBuf);

impl Units {
    const ALL: [&str; 3] = ["", "/user@4711.service", "/user@4711.service/cni.service"];

    fn new() -> Self {
        let systemd = Path::new("/sys/fs/cgroup/systemd");
        let base = if systemd.exists() { systemd } else { Path::new("/sys/fs/cgroup") };
        let units = Self(base.join(format!("bpfdcase{}.slice", std::process::id())));
        for group in Self::ALL.into_iter().chain(["/cni.service"]) {
            fs::create_dir(units.path(group)).unwrap();
        }
        units
    }

    fn path(&self, group: &str) -> PathBuf {
        PathBuf::from(format!("{}{group}", self.0.display()))
    }

    /// `bpfctl` as the member, in one of them.
    fn bpfctl(&self, host: &Host, group: &str, line: &str) -> Output {
        let script = format!(
            "echo $$ >{}/cgroup.procs; exec setpriv --reuid={MEMBER} --regid={MEMBER} --groups=815 /run/bin/bpfctl {line}",
            self.path(group).display()
        );
        let mut command = host.command("sh");
        command.args(["-ec", &script]).env("BPFD_SOCKET", "/run/case/run/bpfd/bpfd.sock");
        Output::of(&format!("bpfctl {line} (in {group})"), command.output().unwrap())
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        for group in ["/cni.service"].into_iter().chain(Self::ALL.into_iter().rev()) {
            // A process that has just ended may be in it for a moment.
            drop(eventually(|| fs::remove_dir(self.path(group)), Result::is_ok));
        }
    }
}

#[test]
fn a_unit_is_that_of_the_process_and_its_user_cannot_make_another_one_of_its_name() {
    let rules = RULES.replace("{ user = \"member\" }", "{ user = \"member\", unit = \"cni.service\" }");
    let (host, units) = (host(&rules), Units::new());
    let unit = |group: &str| {
        let said = units.bpfctl(&host, group, "whoami").stdout;
        said.lines().find_map(|line| line.strip_prefix("unit:")).unwrap().trim().to_owned()
    };
    let knows_units = unit("/cni.service") != "none";
    let check = host.bpfctl(&format!("policy check --dir {ETC}"));
    let warned = check.stderr.contains("rules with `unit` match nobody on this kernel: team");
    assert_eq!((check.code, warned), (0, !knows_units), "{check}");
    if !knows_units {
        println!("skipped: this kernel does not tell the process of a caller");
        return;
    }
    assert_eq!(unit("/cni.service"), "cni.service");
    units.bpfctl(&host, "/cni.service", "list").ok();
    // A group of that name in a unit where the user may make any.
    assert_eq!(unit("/user@4711.service/cni.service"), "user@4711.service");
    let spoofed = units.bpfctl(&host, "/user@4711.service/cni.service", "list").refused(4);
    assert!(spoofed.contains("no rule is about member"), "{spoofed}");
    // Nor is it enough to be the user.
    assert_eq!(host.bpfctl_as_member("list").code, 4);
}

#[test]
fn no_verb_is_open_to_somebody_whom_nothing_allows_it() {
    let host = host(RULES);
    host.counter("r", 7, 1);
    host.bpfctl_as_member(&format!("{} xdp -i uplink --priority 100", pass())).ok();
    // With the member twelve: nobody, strangers, viewers, members of root's group and of the member's own, with the socket's group and
    // without it.
    let callers: [(u32, &[u32]); 11] = [
        (65534, &[815]),
        (65534, &[]),
        (4713, &[815]),
        (4713, &[816]),
        (4713, &[]),
        (4712, &[815, 816]),
        (4714, &[0, 815]),
        (4715, &[10, 815]),
        (4716, &[4711, 815]),
        (1, &[815]),
        (u32::MAX - 1, &[815]),
    ];
    let reads =
        ["list", "list apps", "get app r", "get link r", "chain show uplink", "image ls", "state show", "doctor"];
    let object = example("xdp-pass");
    let changes = [
        format!("load --path {object}"),
        "load --image registry/team/app:1".to_owned(),
        "image pull registry/team/app:1".to_owned(),
        "image rm registry/team/app:1".to_owned(),
        "attach r xdp -i lo".to_owned(),
        "update r/count@uplink:xdp --priority 100".to_owned(),
        "detach r/count@uplink:xdp".to_owned(),
        "unload r".to_owned(),
        "trust add ci --key /run/ci.pub --scope registry/team".to_owned(),
        "policy reload".to_owned(),
        "policy show".to_owned(),
        "policy enforce".to_owned(),
        "policy can-i list --as root".to_owned(),
        "state adopt --yes".to_owned(),
        "state discard --yes".to_owned(),
    ];
    host.shell("printf -- '-----BEGIN PUBLIC KEY-----\\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\\n-----END PUBLIC KEY-----\\n' >/run/ci.pub; chmod 644 /run/ci.pub");
    for (uid, groups) in callers {
        for line in reads.iter().copied().chain(changes.iter().map(String::as_str)) {
            let output = host.bpfctl_as(uid, uid, groups, line);
            assert_eq!(output.code, 4, "{uid} {line}: {output}");
        }
    }
    for line in changes.iter().filter(|line| !line.starts_with("load --path")) {
        let output = host.unchanged(|| host.bpfctl_as(MEMBER, MEMBER, &[815], line));
        assert_eq!(output.code, 4, "{line}: {output}");
    }
    // The control: the same lines, by whom the rule allows them.
    for line in reads {
        host.bpfctl_as_member(line).ok();
    }
}
