//! `[[order]]`: its text and each slip, orders that contradict each other, and where links come to be.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeMap;
use std::path::Path;

use bpfd_policy::Policy;
use bpfd_policy::expect::Expectations;
use bpfd_policy::key::PublicKey;
use bpfd_policy::order::{Before, ChainFacts, Chains, LinkFacts, Member, Order, Placement, place};
use bpfd_policy::read::{KeyFault, PolicyText};
use bpfd_policy::rule::{Direction, Interfaces};
use proptest::prelude::*;

const SIGNER: &str = "version = 1\n[[signer]]\nname = \"ci\"\nkey = \"/keys/ci.pub\"\n";

fn read(files: &[(&str, &str)]) -> Result<Policy, String> {
    let key = |path: &Path| -> Result<PublicKey, KeyFault> { Ok(path.as_os_str().as_encoded_bytes().to_vec().into()) };
    let texts: Vec<PolicyText<'_>> = files.iter().map(|(file, text)| PolicyText { file, text }).collect();
    Policy::read(&texts, key).map_err(|error| {
        let source = std::error::Error::source(&error.fault).map(|why| format!(": {why}")).unwrap_or_default();
        format!("{}:{}:{}: {}{source}", error.file, error.line, error.column, error.fault)
    })
}

fn one(order: &str) -> Result<Policy, String> {
    read(&[("p", &format!("{SIGNER}[[order]]\n{order}"))])
}

const ORDER: &str = r#"[[order]]
id = "edge"
chain = { kinds = ["xdp"], interfaces = ["eth*", "wan0"], netns = ["host"], directions = ["ingress"] }
first = ["signer:ci", "team=edge"]
last = ["count"]
before = [{ app = "ids", than = "lb" }]
strict = true
"#;

#[test]
fn an_order_reads_as_written_and_is_shown_as_it_is_read() {
    let policy = read(&[("p", &format!("{SIGNER}{ORDER}"))]).unwrap();
    let [order] = policy.orders.as_slice() else { panic!("{:?}", policy.orders) };
    assert_eq!(order.first[0], Member::Signer("ci".parse().unwrap()));
    assert_eq!(order.first[1], Member::Label("team".into(), "edge".into()));
    assert_eq!(order.to_string(), ORDER);
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
    // What an earlier version kept has none.
    let mut earlier = serde_json::to_value(&policy).unwrap();
    earlier.as_object_mut().unwrap().remove("orders");
    assert_eq!(serde_json::from_value::<Policy>(earlier).unwrap().orders, []);
}

#[test]
fn an_order_is_about_the_chains_that_it_names() {
    let policy = read(&[("p", &format!("{SIGNER}{ORDER}"))]).unwrap();
    let about = |kind, direction, name: &str, netns: &str| {
        let names = vec![(name.to_owned(), netns.to_owned())];
        policy.orders[0].chain.are(&ChainFacts { kind, direction, names })
    };
    assert!(about("xdp", Direction::Ingress, "eth0", "host") && about("xdp", Direction::Ingress, "wan0", "host"));
    assert!(!about("xdp", Direction::Ingress, "lo", "host") && !about("xdp", Direction::Ingress, "eth0", "blue"));
    assert!(!about("tc", Direction::Ingress, "eth0", "host") && !about("xdp", Direction::Egress, "eth0", "host"));
}

#[test]
fn each_slip_is_told_with_its_place() {
    let refused = |order: &str| one(order).unwrap_err();
    let eth = "chain = { interfaces = [\"eth0\"] }\n";
    for (order, why) in [
        ("id = \"a\"\nfirst = [\"x\"]\n".to_owned(), "p:5:1: missing field `chain`"),
        (format!("id = \"a\"\n{eth}"), "p:6:6: an `[[order]]` needs `first`, `last` or `before`"),
        (
            format!("id = \"A\"\n{eth}first = [\"x\"]\n"),
            "p:6:6: `A` is not a name: `a-z` or `0-9`, then up to 62 of `a-z0-9._-`",
        ),
        (
            format!("id = \"a\"\n{eth}frist = [\"x\"]\n"),
            "p:8:1: unknown field `frist`, expected one of `id`, `chain`, `first`, `last`, `before`, `strict`",
        ),
        (
            format!("id = \"a\"\n{eth}first = [\"X\"]\n"),
            "p:8:10: an order has names of apps, labels as `KEY=VALUE`, and signers as `signer:NAME`: `X` is not a name: \
             `a-z` or `0-9`, then up to 62 of `a-z0-9._-`",
        ),
        (format!("id = \"a\"\n{eth}first = [\"signer:me\"]\n"), "p:8:10: there is no signer `me`; known are: ci"),
        (format!("id = \"a\"\n{eth}first = [\"x\", \"x\"]\n"), "p:8:15: `x` stands in the list already"),
        (
            format!("id = \"a\"\n{eth}before = [{{ app = \"x\", than = \"x\" }}]\n"),
            "p:8:31: `x` stands in the list already",
        ),
        (
            "id = \"a\"\nchain = { kinds = [\"kprobe\"], interfaces = [\"*\"] }\nfirst = [\"x\"]\n".to_owned(),
            "p:7:20: no kind of hook with a chain `kprobe`; known are `xdp`, `tc`",
        ),
        ("id = \"a\"\nchain = { interfaces = [] }\nfirst = [\"x\"]\n".to_owned(), "p:7:24: `interfaces` is empty"),
        (
            "id = \"a\"\nchain = { interfaces = [\"eth?\"] }\nfirst = [\"x\"]\n".to_owned(),
            "p:7:25: `eth?` contains `?`: the only wildcard is `*`, which is any text; list alternatives one by one",
        ),
    ] {
        assert_eq!(refused(&order), why, "{order}");
    }
    let twice = format!("version = 1\n[[order]]\nid = \"a\"\n{eth}first = [\"x\"]\n");
    assert_eq!(read(&[("p", &twice), ("q", &twice)]).unwrap_err(), "q:3:6: there is an order `a` already, in p");
    let many: Vec<String> = (0..65).map(|number| format!("\"a{number}\"")).collect();
    let many = format!("id = \"a\"\n{eth}first = [{}]\n", many.join(", "));
    assert_eq!(refused(&many), "p:6:6: 65 members of an order; at most 64 are read");
}

/// Two files, an order each.
fn both(one: (&str, &str), other: (&str, &str)) -> Result<Policy, String> {
    let text = |id: &str, (chain, order): (&str, &str)| {
        format!("version = 1\n[[order]]\nid = \"{id}\"\nchain = {{ {chain} }}\n{order}\n")
    };
    read(&[("p", &text("a", one)), ("q", &text("b", other))])
}

#[test]
fn orders_that_no_chain_can_have_are_refused_with_both_places() {
    let before = |app: &str, than: &str| format!("before = [{{ app = \"{app}\", than = \"{than}\" }}]");
    let (xy, yx) = (before("x", "y"), before("y", "x"));
    let chain = "interfaces = [\"eth*\"]";
    assert_eq!(
        both((chain, &xy), ("interfaces = [\"*0\"]", &yx)).unwrap_err(),
        "q:5:11: on `eth0:xdp` this contradicts p:5:11, where `x` runs before `y`: here `y` runs before `x`"
    );
    assert_eq!(
        both((chain, "first = [\"x\"]"), (chain, "first = [\"y\"]")).unwrap_err(),
        "q:5:10: on `eth:xdp` this contradicts p:5:10, where `x` runs before `y`: here `y` runs before `x`"
    );
    assert_eq!(
        both((chain, "first = [\"x\"]"), (chain, "last = [\"x\"]")).unwrap_err(),
        "q:5:9: on `eth:xdp` this contradicts p:5:10, where `x` runs before everything else: \
         here everything else runs before `x`"
    );
    assert_eq!(
        both((chain, &format!("{xy}\nlast = [\"x\"]")), (chain, "last = [\"z\"]")).unwrap_err(),
        "p:6:9: on `eth:xdp` this contradicts p:5:11, where `x` runs before `y`: here `y` runs before `x`"
    );
    // A longer way.
    let long = "before = [{ app = \"x\", than = \"y\" }, { app = \"y\", than = \"z\" }]";
    assert_eq!(
        both((chain, long), (chain, &before("z", "x"))).unwrap_err(),
        "q:5:11: on `eth:xdp` this contradicts p:5:11, where `x` runs before `y`, and p:5:38, where `y` runs before `z`: \
         here `z` runs before `x`"
    );
    for (one, other) in [
        ("interfaces = [\"eth*\"]", "interfaces = [\"veth*\"]"),
        ("interfaces = [\"*\"], netns = [\"host\"]", "interfaces = [\"*\"], netns = [\"blue\"]"),
        ("interfaces = [\"*\"], kinds = [\"xdp\"]", "interfaces = [\"*\"], kinds = [\"tc\"]"),
        ("interfaces = [\"*\"], kinds = [\"xdp\"]", "interfaces = [\"*\"], directions = [\"egress\"]"),
    ] {
        assert!(both((one, &xy), (other, &yx)).is_ok(), "{one} and {other} have no chain in common");
    }
    assert!(both((chain, &xy), (chain, &before("y", "z"))).is_ok());
}

fn link(app: &str, asked: u32) -> LinkFacts {
    LinkFacts {
        app: app.to_owned(),
        labels: BTreeMap::new(),
        signers: vec![],
        function: app.to_owned(),
        asked,
        number: app.bytes().fold(0, |number, byte| number * 256 + u64::from(byte)),
    }
}

fn orders(text: &str) -> Vec<Order> {
    let text = format!("{SIGNER}[[order]]\nid = \"o\"\nchain = {{ interfaces = [\"*\"] }}\n{text}");
    read(&[("p", &text)]).unwrap().orders
}

fn placed(text: &str, links: &[LinkFacts]) -> Placement {
    let orders = orders(text);
    place(&orders.iter().collect::<Vec<_>>(), links)
}

/// What an order makes of links that asked for these priorities.
fn effective<const N: usize>(text: &str, links: [(&str, u32); N]) -> [u32; N] {
    let placement = placed(text, &links.map(|(app, asked)| link(app, asked)));
    assert_eq!(placement.unmet, []);
    std::array::from_fn(|at| placement.links[at].effective)
}

#[test]
fn what_an_order_names_moves_and_nothing_else_does() {
    // The first comes before the others.
    assert_eq!(effective("first = [\"z\"]", [("a", 50), ("z", 60), ("b", 70)]), [50, 49, 70]);
    assert_eq!(effective("first = [\"z\"]", [("a", 50), ("z", 10)]), [50, 10], "it is first already");
    // Of equal priorities the name decides, as it does without an order.
    assert_eq!(effective("first = [\"a\"]", [("a", 60), ("z", 50)]), [50, 50]);
    assert_eq!(effective("last = [\"a\"]", [("a", 10), ("m", 50), ("z", 60)]), [61, 50, 60]);
    assert_eq!(effective("before = [{ app = \"z\", than = \"a\" }]", [("a", 50), ("m", 55), ("z", 60)]), [50, 55, 49]);
    // Several, in the order of the list.
    assert_eq!(effective("first = [\"z\", \"y\"]", [("a", 50), ("y", 1), ("z", 60)]), [50, 1, 0]);
    assert_eq!(effective("last = [\"c\", \"b\"]", [("a", 50), ("b", 1), ("c", 2)]), [50, 51, 50]);
}

#[test]
fn without_a_priority_between_what_is_in_the_way_makes_room() {
    assert_eq!(effective("first = [\"z\"]", [("a", 0), ("b", 1), ("z", 60)]), [1, 1, 0]);
    assert_eq!(effective("last = [\"a\"]", [("a", 10), ("b", 1000), ("z", 5)]), [1000, 999, 5]);
    assert_eq!(
        effective("before = [{ app = \"z\", than = \"a\" }]", [("a", 0), ("m", 0), ("z", 60)]),
        [1, 0, 0],
        "no rule is about m"
    );
}

#[test]
fn labels_and_signers_name_several_apps_that_stay_in_order_among_each_other() {
    let team = |app: &str, asked| LinkFacts { labels: [("team".into(), "edge".into())].into(), ..link(app, asked) };
    let links = [team("z", 60), team("y", 70), link("a", 50), team("x", 40)];
    let of = |placement: Placement| placement.links.iter().map(|placed| placed.effective).collect::<Vec<_>>();
    assert_eq!(of(placed("first = [\"team=edge\"]", &links)), [48, 49, 50, 40]);
    let signed = |app: &str, asked| LinkFacts { signers: vec!["ci".into()], ..link(app, asked) };
    let links = [signed("z", 60), link("a", 50)];
    let placement = placed("before = [{ app = \"signer:ci\", than = \"a\" }]", &links);
    assert_eq!(placement.links[0].order.as_ref().map(ToString::to_string).as_deref(), Some("o"));
    assert_eq!(placement.links[1].order, None);
    assert_eq!(of(placement), [49, 50]);
}

#[test]
fn what_only_a_label_makes_a_contradiction_is_named() {
    let edge = LinkFacts { labels: [("team".into(), "edge".into())].into(), ..link("x", 50) };
    let text = "before = [{ app = \"x\", than = \"a\" }, { app = \"a\", than = \"team=edge\" }]";
    let placement = placed(text, &[edge, link("a", 50)]);
    let [unmet] = placement.unmet.as_slice() else { panic!("{:?}", placement.unmet) };
    assert_eq!((unmet.earlier, unmet.later, unmet.order.as_str()), (1, 0, "o"));
    assert_eq!(placement.links.iter().map(|placed| placed.effective).collect::<Vec<_>>(), [49, 50]);
}

#[test]
fn a_table_of_expectations_has_orders_and_says_how_links_run_instead() {
    let policy = read(&[("p", &format!("{SIGNER}{ORDER}"))]).unwrap();
    let expect = |text: &str| Expectations::read("t", &format!("[[expect_order]]\n{text}"));
    let links = "links = [{ app = \"lb\", priority = 10 }, { app = \"x\", priority = 90, signed_by = [\"ci\"] }]";
    let chain = "chain = { kind = \"xdp\", interface = \"eth0\" }";
    let found = |runs: &str| {
        let expected = expect(&format!("name = \"n\"\n{chain}\n{links}\nruns = {runs}\n")).unwrap();
        let [finding] = expected.of(&policy).try_into().unwrap();
        (finding.what, finding.wrong)
    };
    assert_eq!(found("[\"x\", \"lb\"]"), ("t:1 n".to_owned(), None));
    assert_eq!(found("[\"lb\", \"x\"]").1.unwrap(), "expected lb, x, and they run as x 9, lb 10");
    let refused = |text: &str| expect(text).unwrap_err().why;
    assert_eq!(
        refused(&format!("{chain}\n{links}\nruns = [\"lb\"]\n")),
        "`runs` has each app of `links`, and no others"
    );
    let kprobe = "chain = { kind = \"kprobe\", interface = \"eth0\" }\nlinks = []\nruns = []\n";
    assert_eq!(refused(kprobe), "no kind of hook with a chain `kprobe`; known are `xdp`, `tc`");
    let egress = "chain = { kind = \"xdp\", interface = \"eth0\", direction = \"egress\" }\nlinks = []\nruns = []\n";
    assert_eq!(refused(egress), "XDP has no egress");
    let far = format!("{chain}\nlinks = [{{ app = \"a\", priority = 1001 }}]\nruns = [\"a\"]\n");
    assert_eq!(refused(&far), "priority 1001 is out of range: 0 to 1000");
}

fn members() -> impl Strategy<Value = Member> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d"), Just("e")];
    prop_oneof![
        4 => name.prop_map(|name| Member::App(name.parse().unwrap())),
        1 => (0_i32..2).prop_map(|value| Member::Label("k".into(), value.to_string())),
        1 => Just(Member::Signer("ci".parse().unwrap())),
    ]
}

fn any_order() -> impl Strategy<Value = Order> {
    let list = || proptest::collection::vec(members(), 0..3);
    let before = proptest::collection::vec((members(), members()), 0..4);
    (list(), list(), before, any::<bool>()).prop_map(|(first, last, before, strict)| Order {
        id: "o".parse().unwrap(),
        chain: Chains { kinds: None, interfaces: Interfaces { names: None, netns: None, directions: None } },
        first,
        last,
        before: before.into_iter().map(|(app, than)| Before { app, than }).collect(),
        strict,
    })
}

fn any_links() -> impl Strategy<Value = Vec<LinkFacts>> {
    let asked = prop_oneof![0_u32..4, 48_u32..53, 997_u32..=1000];
    let one = ("[a-f]", "[a-c]", asked, proptest::option::of(0_i32..2), any::<bool>());
    proptest::collection::vec(one, 0..9).prop_map(|links| {
        let link =
            |(number, (app, function, asked, label, signed)): (u64, (String, String, u32, Option<i32>, bool))| {
                LinkFacts {
                    app,
                    labels: label.into_iter().map(|value| ("k".to_owned(), value.to_string())).collect(),
                    signers: signed.then(|| "ci".to_owned()).into_iter().collect(),
                    function,
                    asked,
                    number,
                }
            };
        (1..).zip(links).map(link).collect()
    })
}

/// As the chain runs them: libxdp's comparator, and among equals by number.
fn run_order(links: &[LinkFacts], placement: &Placement) -> Vec<u64> {
    let mut places: Vec<usize> = (0..links.len()).collect();
    places.sort_by_key(|at| (placement.links[*at].effective, &links[*at].function, links[*at].number));
    places.into_iter().map(|at| links[at].number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_result_has_all_orders_or_names_those_that_it_cannot(
        orders in proptest::collection::vec(any_order(), 0..3),
        links in any_links(),
        turn in 0_usize..9,
    ) {
        let orders: Vec<&Order> = orders.iter().collect();
        let placement = place(&orders, &links);
        let runs = run_order(&links, &placement);
        let at = |link: usize| runs.iter().position(|number| *number == links[link].number).unwrap();
        let unmet = |earlier: usize, later: usize| {
            placement.unmet.iter().any(|edge| (edge.earlier, edge.later) == (earlier, later))
        };
        // Said again in other words than the code's.
        let rank = |list: &[Member], link: usize| list.iter().position(|member| member.is(&links[link])).unwrap_or(list.len());
        for (one, other) in (0..links.len()).flat_map(|one| (0..links.len()).map(move |other| (one, other))) {
            for order in &orders {
                let first = rank(&order.first, one) < rank(&order.first, other);
                let last = rank(&order.last, one) != rank(&order.last, other)
                    && rank(&order.last, other) != order.last.len()
                    && (rank(&order.last, one) == order.last.len() || rank(&order.last, one) < rank(&order.last, other));
                let before = order.before.iter().any(|Before { app, than }| {
                    app.is(&links[one]) && !than.is(&links[one]) && than.is(&links[other])
                });
                if first || last || before {
                    prop_assert!(at(one) < at(other) || unmet(one, other), "{one} before {other}: {placement:?}");
                }
            }
        }
        // Nothing is unmet for nothing: what holds says the opposite.
        for edge in &placement.unmet {
            prop_assert!(at(edge.later) < at(edge.earlier), "{edge:?}: {placement:?}");
        }
        // A link that no order is about keeps what it asked for.
        for (link, placed) in links.iter().zip(&placement.links) {
            prop_assert!(placed.effective <= 1000);
            prop_assert_eq!(placed.order.is_some(), placed.effective != link.asked);
            let named = orders.iter().any(|order| {
                let before = order.before.iter().any(|Before { app, than }| app.is(link) || than.is(link));
                !order.first.is_empty() || !order.last.is_empty() || before
            });
            prop_assert!(named || placed.effective == link.asked);
        }
        // Placed again where it is, nothing moves.
        let settled: Vec<LinkFacts> = links
            .iter()
            .zip(&placement.links)
            .map(|(link, placed)| LinkFacts { asked: placed.effective, ..link.clone() })
            .collect();
        let again = place(&orders, &settled);
        prop_assert!(again.links.iter().zip(&placement.links).all(|(one, other)| one.effective == other.effective));
        // In whatever order the rows are read.
        let mut turned = links.clone();
        turned.rotate_left(turn.min(links.len()));
        turned.reverse();
        prop_assert_eq!(run_order(&turned, &place(&orders, &turned)), runs);
    }
}
