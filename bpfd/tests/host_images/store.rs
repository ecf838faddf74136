//! What is stored: listed, inspected, judged and taken away.

use std::collections::BTreeSet;

use bpfd::images::{ImageError, Removed};
use bpfd::progress::Report;
use bpfd::waiter::Waiter;
use bpfd_core::ident::AppUid;
use bpfd_core::request::{Apply, PullPolicy};
use bpfd_core::state::{App, AppOrigin, Owner, Reach, Source, State};
use bytecode_image::digest::Digest;

use crate::world::{OBJECT, World, image, image_with_label, pull};

fn pulled(world: &World, tag: &str) -> bpfd::images::Stored {
    let report: Report = std::sync::Arc::new(|_| {});
    let reference = world.reference(tag);
    world.run(world.images.pull(&pull(&reference), PullPolicy::Newer, &report, &Waiter::default())).unwrap().0
}

#[test]
fn a_pull_says_what_came_and_the_list_says_the_same() {
    let world = World::new();
    let stored = pulled(&world, "v1");
    let built = image();
    assert_eq!(stored.reference, world.reference("v1"));
    assert_eq!((stored.digest, stored.manifest), (built.descriptor().digest, Some(built.descriptor().digest)));
    assert_eq!(stored.object, Some(Digest::of(OBJECT)));
    let size = built.manifest.len() + built.config.len() + built.layer.len();
    assert_eq!(stored.size, u64::try_from(size).unwrap());
    assert_eq!(stored.signers, Some(BTreeSet::from(["ci".to_owned()])));
    assert!(stored.pulled.is_some());
    assert_eq!(world.run(world.images.list(0, "", 10)).unwrap(), [stored]);
}

#[test]
fn a_list_has_pages() {
    let world = World::new();
    world.trust_anything();
    for tag in ["c", "a", "b"] {
        world.publish(tag, &image_with_label("1.2.3", tag));
        pulled(&world, tag);
    }
    let page = |after: &str| {
        let page = world.run(world.images.list(0, after, 2)).unwrap();
        page.iter().map(|stored| stored.reference.tag().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(page(""), ["a", "b"]);
    assert_eq!(page(&world.reference("b").to_string()), ["c"]);
}

#[test]
fn an_inspection_tells_programs_and_advice() {
    let world = World::new();
    let digest = pulled(&world, "v1").digest;
    for name in [world.reference("v1").to_string(), digest.to_string()] {
        let inspected = world.run(world.images.inspect(0, &name)).unwrap();
        let programs: Vec<_> = inspected.summary.programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(programs, ["chained", "last", "also", "silent"]);
        assert_eq!(inspected.summary.version.as_deref(), Some("1.2.3"));
        // `last` by the label, `chained` by the object's run config.
        let priority = |function: &str| inspected.advice[function].priority.map(u32::from);
        assert_eq!([priority("chained"), priority("last"), priority("silent")], [Some(10), Some(20), None]);
    }
    let error = world.run(world.images.inspect(0, "r.example/other:v1")).unwrap_err();
    assert!(matches!(error, ImageError::NotStored(_)), "{error:?}");
}

#[test]
fn a_verdict_explains_itself_by_the_policy_of_now() {
    let world = World::new();
    pulled(&world, "v1");
    let name = world.reference("v1").to_string();
    let told = |world: &World| {
        let verdict = world.run(world.images.verify(0, &name, bpfd::images::Explain::Verdict)).unwrap();
        let text = verdict.findings.join("\n").replace(&world.host, "REGISTRY");
        (verdict.trusted, text.replace(&verdict.digest.to_string(), "DIGEST"))
    };
    let trusted = "`REGISTRY/team/app:v1` is DIGEST in the image store\n1 signature is stored with it\n\
                   scope `REGISTRY/team/**` of the policy applies to it\nit is signed by ci\n\
                   signature 1 (legacy): `ci` made it";
    assert_eq!(told(&world), (true, trusted.to_owned()));
    std::fs::remove_dir_all(world.layout.etc.join("policy.d")).unwrap();
    world.trust.reload().unwrap();
    let refused = "`REGISTRY/team/app:v1` is DIGEST in the image store\n1 signature is stored with it\n\
                   no `[[image]]` section of the policy has a scope for it\n\
                   if you trust who signs it, run `bpfctl trust add NAME --key FILE --scope REGISTRY/team/app`";
    assert_eq!(told(&world), (false, refused.to_owned()));
}

#[test]
fn an_image_that_an_app_came_from_stays() {
    let world = World::new();
    let stored = pulled(&world, "v1");
    let state = State { apps: [app(&stored.reference.to_string(), stored.digest)].into(), ..State::default() };
    let names = [stored.reference.to_string()];
    let remove = |state: &State, apply| {
        world.run(world.images.remove(&bpfd_core::policy::Principal::daemon(), &names, state, apply))
    };
    match remove(&state, Apply::Write) {
        Err(ImageError::InUse { reference, users }) => {
            assert_eq!((reference, users), (stored.reference.clone(), vec!["mine".to_owned()]))
        }
        other => panic!("{other:?}"),
    }
    let free = State::default();
    assert_eq!(remove(&free, Apply::ValidateOnly).unwrap().references, std::slice::from_ref(&stored.reference));
    assert_eq!(world.run(world.images.list(0, "", 10)).unwrap().len(), 1);
    let Removed { references, freed } = remove(&free, Apply::Write).unwrap();
    assert_eq!(references, [stored.reference]);
    assert!(freed > stored.size, "the signature's blobs are gone too: {freed}");
    assert_eq!(world.run(world.images.list(0, "", 10)).unwrap(), []);
    assert!(matches!(remove(&free, Apply::Write), Err(ImageError::NotStored(_))));
}

#[test]
fn a_removal_is_all_or_nothing() {
    let world = World::new();
    let stored = pulled(&world, "v1");
    let names = [stored.reference.to_string(), world.reference("v2").to_string()];
    let removed = world.run(world.images.remove(
        &bpfd_core::policy::Principal::daemon(),
        &names,
        &State::default(),
        Apply::Write,
    ));
    assert!(matches!(removed, Err(ImageError::NotStored(_))));
    assert_eq!(world.run(world.images.list(0, "", 10)).unwrap().len(), 1);
}

fn app(reference: &str, digest: Digest) -> (AppUid, App) {
    let uid = AppUid(uuid::Uuid::new_v4());
    let app = App {
        uid,
        handle: bpfd_core::ident::Handle(1),
        name: "mine".parse().unwrap(),
        owner: Owner { uid: 0, user: None },
        credentials: None,
        source: Source::Image { reference: reference.to_owned(), digest: digest.to_string(), signers: vec![] },
        object: "00".repeat(32).parse().unwrap(),
        reach: Reach::Kernel,
        globals: Default::default(),
        programs: vec![],
        maps: vec![],
        labels: Default::default(),
        user_labels: Default::default(),
        advice: Default::default(),
        lifetime: Default::default(),
        origin: AppOrigin::Request,
        created: 0,
        generation: 1,
        request: None,
    };
    (uid, app)
}
