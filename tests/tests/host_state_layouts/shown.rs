//! What a user can tell of a host, as text: what is loaded, attached and waiting, in which order it runs, and that it runs.

use std::fmt::Write as _;

use bpfd_client::proto::v1::{self as pb, app_source::Source, chain_member};
use bpfd_tests::Host;

/// Packets that are sent.
const PACKETS: u64 = 10;

pub(crate) fn shown(host: &Host) -> String {
    let (mut apps, mut links, mut chains) = host.ask(async |daemon| {
        let apps = daemon.apps(pb::ListAppsRequest::default()).await?;
        let links = daemon.links(pb::ListLinksRequest::default()).await?;
        Ok((apps, links, daemon.chains(pb::ListChainsRequest::default()).await?))
    });
    apps.sort_by(|one, other| one.name.cmp(&other.name));
    links.sort_by(|one, other| (&one.name, &one.uid).cmp(&(&other.name, &other.uid)));
    // A chain that nothing runs in may be listed or not.
    chains.retain(|chain| !chain.members.is_empty());
    chains.sort_by(|one, other| (&one.netns, &one.interface).cmp(&(&other.netns, &other.interface)));
    let mut text = String::new();
    for app in &apps {
        show_app(&mut text, app);
    }
    for link in &links {
        show_link(&mut text, link);
    }
    for pb::Chain { netns, interface, mode, members, .. } in &chains {
        let members = members.iter().map(|member| match &member.program {
            Some(chain_member::Program::Link(link)) => format!("{} {}", member.position, link.uid),
            Some(chain_member::Program::Foreign(foreign)) => format!("{} foreign {}", member.position, foreign.name),
            None => format!("{} nothing", member.position),
        });
        let mode = pb::ChainMode::try_from(*mode).unwrap().as_str_name();
        let netns = netns.as_deref().unwrap_or("-");
        let members: Vec<String> = members.collect();
        writeln!(text, "chain {netns}:{interface} {mode}\n  {}", members.join("\n  ")).unwrap();
    }
    let counted = |app: &pb::App| app.maps.iter().any(|map| map.name == "packets").then(|| host.counted(&app.name));
    let before: Vec<Option<u64>> = apps.iter().map(counted).collect();
    host.ping(PACKETS);
    for (app, before) in apps.iter().zip(before) {
        if let (Some(before), Some(after)) = (before, counted(app)) {
            writeln!(text, "{PACKETS} packets are {} in `packets` of {}", after - before, app.name).unwrap();
        }
    }
    text
}

fn show_app(text: &mut String, app: &pb::App) {
    let state = app.state().as_str_name();
    let pb::Owner { uid: owner, user, .. } = app.owner.as_ref().unwrap();
    let user = user.as_deref().unwrap_or("?");
    writeln!(text, "app {} {} {state} generation {} of {owner} ({user})", app.name, app.uid, app.generation).unwrap();
    let source = app.source.as_ref().unwrap();
    match source.source.as_ref().unwrap() {
        Source::Image(pb::ImageOrigin { reference, digest, signers, .. }) => {
            writeln!(text, "  image {reference} {digest} {signers:?}").unwrap();
        }
        Source::Upload(pb::UploadOrigin { name_hint, .. }) => writeln!(text, "  upload {name_hint}").unwrap(),
    }
    writeln!(text, "  object {}", source.object_sha256).unwrap();
    let programs = app.programs.iter().map(|program| format!("{} in {}", program.function, program.section));
    writeln!(text, "  programs {}", programs.collect::<Vec<_>>().join(", ")).unwrap();
    let mut maps: Vec<&str> = app.maps.iter().map(|map| map.name.as_str()).collect();
    maps.sort_unstable();
    writeln!(text, "  maps {}", maps.join(", ")).unwrap();
    for pb::GlobalSetting { name, value, .. } in &app.globals {
        writeln!(text, "  global {name} = {value}").unwrap();
    }
    let time = app.create_time.unwrap();
    writeln!(text, "  reach {} created {}.{:09}", app.reach().as_str_name(), time.seconds, time.nanos).unwrap();
}

fn show_link(text: &mut String, link: &pb::Link) {
    let state = link.state().as_str_name();
    writeln!(text, "link {} {} {state} generation {} of {}", link.name, link.uid, link.generation, link.owner_uid)
        .unwrap();
    // Of a chain; the name says where every link is.
    if let (Some(priority), Some(proceed_on)) = (link.priority, &link.proceed_on) {
        let position = link.position.map_or_else(|| "-".to_owned(), |position| position.to_string());
        let verdicts: Vec<&str> = proceed_on.xdp().map(|verdict| verdict.as_str_name()).collect();
        let (mode, verdicts) = (link.xdp_mode().as_str_name(), verdicts.join(", "));
        writeln!(text, "  priority {priority} position {position} {mode} proceed on {verdicts}").unwrap();
    }
}
