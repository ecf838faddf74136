//! The tc hooks of the real kernel: tcx chains, clsact qdiscs and filters. Needs root (CAP_BPF, CAP_NET_ADMIN) and fails
//! without. Each test has a network namespace of its own and leaves nothing behind.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the lints exempt test functions, not what they share")]

mod common;

use bpfd_sys::bpf::{self, AttachType, Direction, LinkKind, Neighbour, Position, ProgramType, TcxEntry};
use bpfd_sys::netlink::{BpfFilter, FilterKind, FilterPlace, IngressQdisc, LinkEvent, LinkWatch, Route, TcFilter};
use common::{in_own_netns, ip, load, program_id, returning, unshare};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];
/// `TC_ACT_UNSPEC`: on to the next program.
const UNSPEC: u32 = u32::MAX;
const ETH_P_ALL: u16 = 3;

fn program(name: &str) -> OwnedFd {
    load(ProgramType::SCHED_CLS, AttachType::NONE, name, &returning(UNSPEC)).unwrap()
}

/// Runs `work` in a namespace of its own on a device, which nobody else has.
fn on_device(work: impl FnOnce(&Route, u32) + Send) {
    in_own_netns(|| {
        ip("link add veth0 type veth peer name veth1");
        let route = Route::open().unwrap();
        let index = route.link_named("veth0").unwrap().unwrap().index;
        work(&route, index);
    });
}

/// The device with a tcx chain, or a line that says why there is none.
fn on_tcx(work: impl FnOnce(u32) + Send) {
    // 1 is the loopback device. Tried first: the version says why it failed, not whether it can work.
    let tried = bpf::prog_query_tcx(1, Direction::Ingress);
    if let (Err(_), Some(release)) = (&tried, older_than(6, 6)) {
        println!("skipped: needs Linux 6.6 for tcx; this is {release}");
        return;
    }
    tried.unwrap();
    on_device(|_route, index| work(index));
}

/// This kernel's `major.minor`, if it is older.
fn older_than(major: u32, minor: u32) -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let this = (numbers.next()?, numbers.next()?);
    (this < (major, minor)).then(|| format!("{}.{}", this.0, this.1))
}

/// What runs on a tcx hook: programs, and the links that hold them.
fn chain(index: u32, direction: Direction) -> Vec<TcxEntry> {
    bpf::prog_query_tcx(index, direction).unwrap().entries
}

fn entry(program: &OwnedFd, link: Option<&OwnedFd>) -> TcxEntry {
    TcxEntry { program: program_id(program), link: link.map(|link| bpf::link_info(link.as_fd()).unwrap().id) }
}

#[test]
fn tcx_programs_keep_their_order_and_a_stale_revision_is_refused() {
    on_tcx(|index| {
        let (a, b, c) = (program("a"), program("b"), program("c"));
        let revision = || bpf::prog_query_tcx(index, Direction::Ingress).unwrap().revision;
        let put = |program: &OwnedFd, position, revision| {
            bpf::link_create_tcx(program.as_fd(), index, Direction::Ingress, position, revision)
        };
        let link_b = put(&b, Position::Last, None).unwrap();
        let seen = revision();
        let link_a = put(&a, Position::Before(Neighbour::Link(link_b.as_fd())), Some(seen)).unwrap();
        let stale = put(&c, Position::First, Some(seen)).unwrap_err();
        assert_eq!(stale.raw_os_error(), Some(Errno::STALE.raw_os_error()));
        assert_eq!(chain(index, Direction::Ingress), [entry(&a, Some(&link_a)), entry(&b, Some(&link_b))]);
        let id_b = bpf::link_info(link_b.as_fd()).unwrap().id;
        let link_c = put(&c, Position::After(Neighbour::LinkId(id_b)), Some(revision())).unwrap();
        let order = [entry(&a, Some(&link_a)), entry(&b, Some(&link_b)), entry(&c, Some(&link_c))];
        assert_eq!(chain(index, Direction::Ingress), order);
        assert_eq!(chain(index, Direction::Egress), []);
    });
}

#[test]
fn tcx_programs_go_around_a_foreign_one_which_stays() {
    on_tcx(|index| {
        for direction in BOTH {
            let programs = ["foreign", "first", "before", "after", "last"].map(program);
            let [foreign, first, before, after, last] = &programs;
            bpf::prog_attach_tcx(foreign.as_fd(), index, direction).unwrap();
            let beside = Neighbour::ProgramId(program_id(foreign));
            let put = |program: &OwnedFd, position| {
                bpf::link_create_tcx(program.as_fd(), index, direction, position, None).unwrap()
            };
            let links = [
                put(last, Position::Last),
                put(first, Position::First),
                put(before, Position::Before(beside)),
                put(after, Position::After(beside)),
            ];
            let [of_last, of_first, of_before, of_after] = &links;
            let with_all = [
                entry(first, Some(of_first)),
                entry(before, Some(of_before)),
                entry(foreign, None),
                entry(after, Some(of_after)),
                entry(last, Some(of_last)),
            ];
            assert_eq!(chain(index, direction), with_all, "{direction:?}");
            let gone = Neighbour::ProgramId(bpf::ProgId(i32::MAX.cast_unsigned()));
            let position = Position::Before(gone);
            assert!(bpf::link_create_tcx(last.as_fd(), index, direction, position, None).is_err());
            // Not closed: a process that another case has just started may hold the descriptors until its exec.
            links.iter().for_each(|link| bpf::link_detach(link.as_fd()).unwrap());
            assert_eq!(chain(index, direction), [entry(foreign, None)], "{direction:?}");
        }
    });
}

#[test]
fn a_tcx_link_swaps_the_expected_program_in_its_place_and_is_detached() {
    on_tcx(|index| {
        let [one, two, other] = ["one", "two", "other"].map(program);
        let put = |program: &OwnedFd| {
            bpf::link_create_tcx(program.as_fd(), index, Direction::Egress, Position::Last, None).unwrap()
        };
        let (link, behind) = (put(&one), put(&other));
        let info = bpf::link_info(link.as_fd()).unwrap();
        assert_eq!(info.prog_id, program_id(&one));
        assert_eq!(info.kind, LinkKind::Tcx { ifindex: index, attach_type: AttachType::TCX_EGRESS });
        bpf::link_update(link.as_fd(), two.as_fd(), Some(one.as_fd())).unwrap();
        let swapped = [entry(&two, Some(&link)), entry(&other, Some(&behind))];
        assert_eq!(chain(index, Direction::Egress), swapped);
        let wrong = bpf::link_update(link.as_fd(), one.as_fd(), Some(one.as_fd())).unwrap_err();
        assert_eq!(wrong.raw_os_error(), Some(Errno::PERM.raw_os_error()));
        assert_eq!(chain(index, Direction::Egress), swapped);
        bpf::link_detach(link.as_fd()).unwrap();
        assert_eq!(chain(index, Direction::Egress), [entry(&other, Some(&behind))]);
        let kind = bpf::link_info(link.as_fd()).unwrap().kind;
        assert_eq!(kind, LinkKind::Tcx { ifindex: 0, attach_type: AttachType::TCX_EGRESS });
        bpf::link_detach(behind.as_fd()).unwrap();
        ip("link del veth0");
        let absent = bpf::prog_query_tcx(index, Direction::Egress).unwrap_err();
        assert_eq!(absent.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    });
}

fn tc(arguments: &str) {
    let status = Command::new("tc").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "tc {arguments}");
}

fn place(preference: u16, handle: u32) -> FilterPlace {
    FilterPlace { preference: preference.try_into().unwrap(), handle: handle.try_into().unwrap() }
}

fn ours(preference: u16, handle: u32, name: &str, program: &OwnedFd) -> TcFilter {
    let info = bpf::prog_info(program.as_fd()).unwrap();
    let kind = FilterKind::Bpf(BpfFilter {
        name: Some(name.to_owned()),
        program: Some(info.id),
        tag: Some(info.tag),
        direct_action: true,
    });
    TcFilter { chain: 0, place: place(preference, handle), protocol: ETH_P_ALL, kind }
}

/// What `tc` made: classic BPF for IPv4, or another kind.
fn foreign(preference: u16, handle: u32, protocol: u16, kind: FilterKind) -> TcFilter {
    TcFilter { chain: 0, place: place(preference, handle), protocol, kind }
}

fn classic() -> FilterKind {
    FilterKind::Bpf(BpfFilter::default())
}

#[test]
fn a_clsact_is_made_found_and_deleted_once() {
    on_device(|route, index| {
        let qdisc = || route.ingress_qdisc(index).unwrap();
        assert_eq!(qdisc(), None);
        assert_eq!(route.delete_clsact(index).unwrap_err().errno(), Errno::NOENT.raw_os_error());
        route.create_clsact(index).unwrap();
        assert_eq!(qdisc(), Some(IngressQdisc::Clsact));
        let peer = route.link_named("veth1").unwrap().unwrap().index;
        assert_eq!(route.ingress_qdisc(peer).unwrap(), None, "another device");
        let taken = route.create_clsact(index).unwrap_err();
        assert_eq!(taken.errno(), Errno::EXIST.raw_os_error());
        assert!(taken.message.is_some_and(|words| words.contains("Exclusivity flag on")));
        route.delete_clsact(index).unwrap();
        assert_eq!(qdisc(), None);
        assert_eq!(route.create_clsact(4_000_000).unwrap_err().errno(), Errno::NODEV.raw_os_error());
    });
}

#[test]
fn an_ingress_qdisc_in_the_place_of_a_clsact_is_named_and_stays() {
    on_device(|route, index| {
        tc("qdisc add dev veth0 ingress");
        let there = Some(IngressQdisc::Other("ingress".into()));
        assert_eq!(route.ingress_qdisc(index).unwrap(), there);
        assert_eq!(route.create_clsact(index).unwrap_err().errno(), Errno::EXIST.raw_os_error());
        assert_eq!(route.delete_clsact(index).unwrap_err().errno(), Errno::INVAL.raw_os_error());
        assert_eq!(route.ingress_qdisc(index).unwrap(), there);
    });
}

#[test]
fn filters_run_by_preference_and_those_of_others_stay() {
    on_device(|route, index| {
        route.create_clsact(index).unwrap();
        for (direction, word) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
            assert_eq!(route.filters(index, direction).unwrap(), []);
            let bytecode = ["filter add dev veth0", word, "protocol ip pref 200 handle 7 bpf bytecode"].join(" ");
            // `ret 0xffffffff`: one argument, although it has blanks.
            let mut foreign_filter = Command::new("tc");
            foreign_filter.args(bytecode.split(' ')).arg("1,6 0 0 4294967295,");
            assert!(foreign_filter.status().unwrap().success());
            let theirs = foreign(200, 7, 0x0800, classic());
            let [a, b, c, d] = ["a", "b", "c", "d"].map(program);
            let create = |preference, handle, name: &str, program: &OwnedFd| {
                route.create_filter(index, direction, place(preference, handle), program.as_fd(), name)
            };
            create(300, 1, "third", &c).unwrap();
            create(100, 1, "first", &a).unwrap();
            create(150, 9, "second", &b).unwrap();
            let (first, second, third) =
                (ours(100, 1, "first", &a), ours(150, 9, "second", &b), ours(300, 1, "third", &c));
            let all = [first.clone(), second, theirs.clone(), third.clone()];
            assert_eq!(route.filters(index, direction).unwrap(), all, "{direction:?}");

            let taken = create(100, 1, "again", &d).unwrap_err();
            assert_eq!(taken.errno(), Errno::EXIST.raw_os_error());
            assert_eq!(taken.message.as_deref(), Some("Filter already exists"));
            let protocol = create(200, 8, "of another protocol", &d).unwrap_err();
            assert_eq!(protocol.errno(), Errno::INVAL.raw_os_error());
            assert_eq!(route.filters(index, direction).unwrap(), all, "nothing changed");

            route.replace_filter(index, direction, place(150, 9), d.as_fd(), "new").unwrap();
            let new = ours(150, 9, "new", &d);
            let replaced = [first.clone(), new, theirs.clone(), third.clone()];
            assert_eq!(route.filters(index, direction).unwrap(), replaced, "{direction:?}");
            let absent = |place| route.replace_filter(index, direction, place, d.as_fd(), "x").unwrap_err().errno();
            assert_eq!([absent(place(150, 8)), absent(place(151, 9))], [Errno::NOENT.raw_os_error(); 2]);

            route.delete_filter(index, direction, place(150, 9)).unwrap();
            assert_eq!(route.filters(index, direction).unwrap(), [first, theirs.clone(), third], "{direction:?}");
            let absent = |place| route.delete_filter(index, direction, place).unwrap_err().errno();
            assert_eq!([absent(place(150, 9)), absent(place(100, 2))], [Errno::NOENT.raw_os_error(); 2]);
            route.delete_filter(index, direction, place(100, 1)).unwrap();
            route.delete_filter(index, direction, place(300, 1)).unwrap();
            assert_eq!(route.filters(index, direction).unwrap(), [theirs], "{direction:?}");
        }
    });
}

#[test]
fn filters_of_one_preference_are_told_apart_by_their_handles() {
    on_device(|route, index| {
        route.create_clsact(index).unwrap();
        let [mine, theirs] = ["mine", "theirs"].map(program);
        let direction = Direction::Ingress;
        route.create_filter(index, direction, place(50, 1), theirs.as_fd(), "theirs").unwrap();
        route.create_filter(index, direction, place(50, 2), mine.as_fd(), &"n".repeat(255)).unwrap();
        let stays = ours(50, 1, "theirs", &theirs);
        let both = [stays.clone(), ours(50, 2, &"n".repeat(255), &mine)];
        let mut seen = route.filters(index, direction).unwrap();
        seen.sort_by_key(|filter| filter.place);
        assert_eq!(seen, both);
        route.delete_filter(index, direction, place(50, 2)).unwrap();
        assert_eq!(route.filters(index, direction).unwrap(), [stays]);
        for name in ["n".repeat(256), "n\0".to_owned()] {
            let refused = route.create_filter(index, direction, place(50, 3), mine.as_fd(), &name).unwrap_err();
            assert_eq!(refused.errno(), Errno::INVAL.raw_os_error());
        }
        let xdp = load(ProgramType::XDP, AttachType::XDP, "xdp", &returning(2)).unwrap();
        assert!(route.create_filter(index, direction, place(50, 3), xdp.as_fd(), "xdp").is_err());
        assert_eq!(route.filters(index, Direction::Egress).unwrap(), []);
    });
}

#[test]
fn a_filter_of_another_kind_is_listed_and_keeps_its_preference() {
    on_device(|route, index| {
        route.create_clsact(index).unwrap();
        let matchall = "filter add dev veth0 ingress protocol all pref 10 handle 1 matchall classid 1:1";
        let made = Command::new("tc").args(matchall.split(' ')).output().unwrap();
        let words = String::from_utf8(made.stderr).unwrap();
        if words.contains("TC classifier not found") {
            println!("skipped: this kernel has no cls_matchall");
            return;
        }
        assert!(made.status.success(), "{words}");
        let theirs = [foreign(10, 1, ETH_P_ALL, FilterKind::Other("matchall".into()))];
        assert_eq!(route.filters(index, Direction::Ingress).unwrap(), theirs);
        let program = program("ours");
        let place = place(10, 1);
        let refused = route.create_filter(index, Direction::Ingress, place, program.as_fd(), "ours").unwrap_err();
        assert_eq!(refused.message.as_deref(), Some("Specified filter kind does not match existing one"));
        let refused = route.replace_filter(index, Direction::Ingress, place, program.as_fd(), "ours").unwrap_err();
        assert_eq!(refused.errno(), Errno::INVAL.raw_os_error());
        let refused = route.delete_filter(index, Direction::Ingress, place).unwrap_err();
        assert_eq!(refused.errno(), Errno::INVAL.raw_os_error());
        assert_eq!(route.filters(index, Direction::Ingress).unwrap(), theirs);
    });
}

#[test]
fn without_a_clsact_or_a_device_there_are_no_filters_and_none_is_made() {
    on_device(|route, index| {
        let program = program("nowhere");
        for index in [index, 4_000_000] {
            assert_eq!(route.filters(index, Direction::Ingress).unwrap(), []);
            assert!(
                route.create_filter(index, Direction::Ingress, place(1, 1), program.as_fd(), "nowhere").is_err(),
                "{index}"
            );
        }
        assert_eq!(route.ingress_qdisc(index).unwrap(), None, "no qdisc was made on the way");
    });
}

#[test]
fn a_watch_tells_of_qdiscs_and_filters_only_if_asked() {
    on_device(|route, index| {
        let (mut deaf, mut watch) = (LinkWatch::open().unwrap(), LinkWatch::open().unwrap());
        watch.follow_filters().unwrap();
        let program = program("watched");
        let changed = LinkEvent::Filters { index };
        let changes: [&dyn Fn(); 5] = [
            &|| route.create_clsact(index).unwrap(),
            &|| route.create_filter(index, Direction::Egress, place(1, 1), program.as_fd(), "one").unwrap(),
            &|| route.replace_filter(index, Direction::Egress, place(1, 1), program.as_fd(), "two").unwrap(),
            &|| route.delete_filter(index, Direction::Egress, place(1, 1)).unwrap(),
            &|| route.delete_clsact(index).unwrap(),
        ];
        for change in changes {
            change();
            // The kernel has told everybody before it answers.
            assert_eq!(watch.next_event().unwrap().as_ref(), Some(&changed));
            assert_eq!(watch.next_event().unwrap(), None);
        }
        tc("qdisc add dev veth0 root pfifo");
        route.filters(index, Direction::Egress).unwrap();
        route.ingress_qdisc(index).unwrap();
        assert_eq!(watch.next_event().unwrap(), None, "another qdisc, and what was only read");
        assert_eq!(deaf.next_event().unwrap(), None);
    });
}

#[test]
fn a_tc_hook_is_that_of_the_thread_s_namespace() {
    on_device(|route, index| {
        route.create_clsact(index).unwrap();
        unshare(UnshareFlags::NEWNET);
        assert_eq!(Route::open().unwrap().ingress_qdisc(index).unwrap(), None);
        assert_eq!(
            route.ingress_qdisc(index).unwrap(),
            Some(IngressQdisc::Clsact),
            "the socket stays where it was made"
        );
    });
}
