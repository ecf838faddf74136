//! Both sockets, as each kind of caller: frames of HTTP/2 that are none, and calls whose messages are none.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bpfd_client::proto::v1 as pb;
use bpfd_tests::mutants::Random;
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::{Door, Fate};
use crate::raw::{HEADERS, LIMIT, MEMBER, PREFACE, ROOT, Raw, VIEWER, Who, connect, conversation};
use crate::world::Images;

const CALLERS: [Who; 4] = [ROOT, Who { socket: "bpfd-ro.sock", ..ROOT }, MEMBER, VIEWER];
/// Calls on one connection.
const CALLS: usize = 64;

struct Frames(Vec<Vec<u8>>);

pub(super) fn frames(_: &mut Images) -> Box<dyn Door> {
    let whole = requests().into_iter().map(|(path, message)| conversation(path, &[], &message));
    Box::new(Frames(whole.collect()))
}

impl Door for Frames {
    fn input(&mut self, images: &mut Images, random: &mut Random) -> Fate {
        let who = CALLERS[random.below(CALLERS.len())];
        let bytes = match random.below(3) {
            0 => noise(random),
            _ => random.binary(&self.0),
        };
        said(connect(&images.host, who), &bytes)
    }
}

/// Frames of every type (RFC 9113, 6) with any flags, on few streams.
fn noise(random: &mut Random) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    for _ in 0..random.below(24) {
        let body: Vec<u8> = (0..random.below(48)).map(|_| random.byte()).collect();
        let length = match random.below(8) {
            0 => u32::try_from(random.below(1 << 24)).unwrap(),
            _ => u32::try_from(body.len()).unwrap(),
        };
        let stream = u32::try_from(random.below(8)).unwrap();
        bytes.extend(&length.to_be_bytes()[1..]);
        bytes.extend([u8::try_from(random.below(12)).unwrap(), random.byte()]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(body);
    }
    bytes
}

/// How long a daemon may be silent before it is taken to wait for more: one that is slower is asked no more, and answers or not.
const SILENCE: Duration = Duration::from_millis(5);

/// Says it all, and waits until the daemon has said all, too.
fn said(mut stream: UnixStream, bytes: &[u8]) -> Fate {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    let late = |error: &std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    // It may have ended the connection before the end.
    let said = stream.write_all(bytes);
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    // The end of what is said ends calls that are not answered yet.
    while let Ok(length @ 1..) = stream.read(&mut part) {
        answer.extend(&part[..length]);
    }
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let said = said.and_then(|()| stream.shutdown(Shutdown::Write));
    let heard = stream.read_to_end(&mut answer);
    match (said, heard) {
        (Err(error), _) | (_, Err(error)) if late(&error) => Fate::Hung,
        (_, _) if has_headers(&answer) => Fate::Taken,
        (_, _) => Fate::Refused,
    }
}

/// Whether a call was answered: what the daemon says first are its settings.
fn has_headers(mut frames: &[u8]) -> bool {
    while let Some((&[a, b, c, kind, ..], rest)) = frames.split_first_chunk::<9>() {
        if kind == HEADERS {
            return true;
        }
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
        frames = rest.get(length..).unwrap_or_default();
    }
    false
}

struct Messages {
    runtime: Runtime,
    local: LocalSet,
    open: Option<(Raw, usize)>,
    requests: Vec<(&'static str, Vec<u8>)>,
}

pub(super) fn messages(_: &mut Images) -> Box<dyn Door> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    Box::new(Messages { runtime, local: LocalSet::new(), open: None, requests: requests() })
}

impl Door for Messages {
    fn input(&mut self, images: &mut Images, random: &mut Random) -> Fate {
        let Self { runtime, local, open, requests } = self;
        let (path, _) = requests[random.below(requests.len())];
        // Mostly of this method's own.
        let others: Vec<Vec<u8>> = requests
            .iter()
            .filter(|(of, _)| *of == path || random.below(32) == 0)
            .map(|(_, message)| message.clone())
            .collect();
        let message = random.binary(&others);
        let who = CALLERS[random.below(CALLERS.len())];
        local.block_on(runtime, async {
            let call = async {
                let (mut raw, calls) = match open.take() {
                    Some((raw, calls)) if calls < CALLS => (raw, calls),
                    // A connection has one caller.
                    Some(_) | None => (Raw::try_greet(connect(&images.host, who)).await?, 0),
                };
                let status = raw.try_begin(path).await?.ask(&message).await;
                *open = Some((raw, calls + 1));
                status
            };
            match timeout(LIMIT, call).await {
                Ok(Some(status)) if status == "0" => Fate::Taken,
                Ok(_) => Fate::Refused,
                Err(_late) => Fate::Hung,
            }
        })
    }

    fn close(&mut self, _images: &mut Images) {
        self.open = None;
    }
}

/// A message for each method, as an honest client would send it.
pub(crate) fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let text = str::to_owned;
    let xdp = pb::hook::Hook::Xdp(pb::XdpHook { netns: Some(text("far")), interface: text("far") });
    let chained = |hook, proceed_on| pb::Attachment {
        function: Some(text("count")),
        hook: Some(pb::Hook { hook: Some(hook) }),
        priority: Some(300),
        proceed_on: Some(proceed_on),
        when_present: true,
        ..Default::default()
    };
    let on_xdp = || chained(xdp.clone(), pb::ProceedOn { xdp: vec![3], tc: vec![] });
    let alone = |hook| pb::Attachment { hook: Some(pb::Hook { hook: Some(hook) }), ..Default::default() };
    let image = pb::ImageSource { reference: text("registry/open/app:1"), pull: 1 };
    let load = pb::LoadRequest {
        request_id: text("0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f"),
        name: Some(text("n1")),
        source: Some(pb::load_request::Source::Image(image)),
        programs: vec![pb::ProgramSelector { selector: Some(pb::program_selector::Selector::Function(text("count"))) }],
        globals: vec![pb::GlobalSetting { name: text("step"), value: text("2") }],
        attach: vec![on_xdp()],
        user_labels: [(text("team"), text("net"))].into(),
        ..Default::default()
    };
    let attach = |attachment| pb::AttachRequest {
        app: text("n1"),
        attachment: Some(attachment),
        validate_only: true,
        ..Default::default()
    };
    let tracepoint =
        pb::hook::Hook::Tracepoint(pb::TracepointHook { category: text("sched"), event: text("sched_switch") });
    let kprobe = pb::hook::Hook::Kprobe(pb::KprobeHook { function: text("do_unlinkat"), offset: 4 });
    let tc = pb::hook::Hook::Tc(pb::TcHook { netns: None, interface: text("uplink"), direction: 1 });
    let page = |token: &str| (Some(7), text(token));
    let (page_size, page_token) = page("n0");
    let label = pb::LabelSelector { key: text("team"), value: Some(text("net")) };
    let names = || vec![text("n1"), text("uid:0f0f0f0f0f0f4f0f8f0f0f0f0f0f0f0f"), text("#7")];
    let links = pb::LinkNames { names: vec![text("n1/count@far:far:xdp")] };
    let app = |app: &str| pb::GetAppRequest { app: text(app) }.encode_to_vec();
    let list_links = pb::ListLinksRequest { interface: Some(text("far")), page_size, ..Default::default() };
    let chain = pb::GetChainRequest { netns: Some(text("far")), interface: text("far"), hook: 1 };
    let pull = pb::PullRequest { reference: text("registry/open/app:1"), pull: 2, ..Default::default() };
    let tag = pb::TagImageRequest {
        image: text("registry/open/app:1"),
        name: text("registry/open/app:2"),
        ..Default::default()
    };
    let start = pb::ImportStart { name: text("registry/open/app:3"), ..Default::default() };
    let import = pb::import_images_request::Part::Start(start);
    let remove = pb::RemoveImagesRequest { images: vec![text("registry/open/app:1")], ..Default::default() };
    let reload = pb::ReloadPolicyRequest { request_id: text("0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f10") };
    let trust = pb::AddTrustRequest {
        name: text("other"),
        public_key: b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n".to_vec(),
        scope: text("registry/other/**"),
        ..Default::default()
    };
    let chunk = b"\x7fELF\x02\x01\x01".to_vec();
    vec![
        ("/bpfd.v1.AppService/UploadObject", pb::UploadObjectRequest { chunk }.encode_to_vec()),
        ("/bpfd.v1.AppService/Load", load.encode_to_vec()),
        ("/bpfd.v1.AppService/GetApp", app("n1")),
        (
            "/bpfd.v1.AppService/ListApps",
            pb::ListAppsRequest {
                page_size,
                page_token: page_token.clone(),
                user_labels: vec![label],
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/bpfd.v1.AppService/Unload",
            pb::UnloadRequest {
                target: Some(pb::unload_request::Target::Apps(pb::AppNames { names: names() })),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        ("/bpfd.v1.AppService/GetLoadLog", pb::GetLoadLogRequest { log_id: text("0f0f0f0f") }.encode_to_vec()),
        ("/bpfd.v1.LinkService/Attach", attach(on_xdp()).encode_to_vec()),
        ("/bpfd.v1.LinkService/Attach", attach(alone(tracepoint)).encode_to_vec()),
        ("/bpfd.v1.LinkService/Attach", attach(alone(kprobe)).encode_to_vec()),
        (
            "/bpfd.v1.LinkService/Attach",
            attach(chained(tc, pb::ProceedOn { xdp: vec![], tc: vec![1] })).encode_to_vec(),
        ),
        (
            "/bpfd.v1.LinkService/UpdateLink",
            pb::UpdateLinkRequest {
                link: text("n1/count@far:far:xdp"),
                generation: Some(1),
                priority: Some(400),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/bpfd.v1.LinkService/Detach",
            pb::DetachRequest { target: Some(pb::detach_request::Target::Links(links)), ..Default::default() }
                .encode_to_vec(),
        ),
        ("/bpfd.v1.LinkService/GetLink", pb::GetLinkRequest { link: text("#7") }.encode_to_vec()),
        ("/bpfd.v1.LinkService/ListLinks", list_links.encode_to_vec()),
        ("/bpfd.v1.ChainService/GetChain", chain.encode_to_vec()),
        ("/bpfd.v1.ChainService/ListChains", pb::ListChainsRequest { page_size, page_token }.encode_to_vec()),
        (
            "/bpfd.v1.MapService/ListMaps",
            pb::ListMapsRequest { app: Some(text("n1")), ..Default::default() }.encode_to_vec(),
        ),
        (
            "/bpfd.v1.MapService/GetElement",
            pb::GetElementRequest { app: text("n1"), map: text("packets"), key: text("0"), form: 1, per_cpu: 2 }
                .encode_to_vec(),
        ),
        (
            "/bpfd.v1.MapService/DumpMap",
            pb::DumpMapRequest { app: text("n1"), map: text(".rodata"), limit: Some(1), ..Default::default() }
                .encode_to_vec(),
        ),
        (
            "/bpfd.v1.MapService/UpdateElement",
            pb::UpdateElementRequest {
                app: text("n1"),
                map: text("packets"),
                key: text("hex:00000000"),
                value: text("[1,{\"a\":[2]}]"),
                when: 2,
                per_cpu: 2,
            }
            .encode_to_vec(),
        ),
        (
            "/bpfd.v1.MapService/DeleteElement",
            pb::DeleteElementRequest { app: text("n1"), map: text("packets"), key: text("0") }.encode_to_vec(),
        ),
        ("/bpfd.v1.ImageService/Pull", pull.encode_to_vec()),
        ("/bpfd.v1.ImageService/ListImages", pb::ListImagesRequest { page_size, ..Default::default() }.encode_to_vec()),
        (
            "/bpfd.v1.ImageService/InspectImage",
            pb::InspectImageRequest { image: text("registry/open/app:1") }.encode_to_vec(),
        ),
        (
            "/bpfd.v1.ImageService/VerifyImage",
            pb::VerifyImageRequest { image: text("registry/open/app:1"), explain: true }.encode_to_vec(),
        ),
        ("/bpfd.v1.ImageService/TagImage", tag.encode_to_vec()),
        ("/bpfd.v1.ImageService/ImportImages", pb::ImportImagesRequest { part: Some(import) }.encode_to_vec()),
        (
            "/bpfd.v1.ImageService/ExportImages",
            pb::ExportImagesRequest { images: vec![text("registry/open/app:1")] }.encode_to_vec(),
        ),
        ("/bpfd.v1.ImageService/RemoveImages", remove.encode_to_vec()),
        ("/bpfd.v1.PolicyService/AddTrust", trust.encode_to_vec()),
        ("/bpfd.v1.PolicyService/ReloadPolicy", reload.encode_to_vec()),
        ("/bpfd.v1.SystemService/GetInfo", vec![8, 1]),
        ("/bpfd.v1.SystemService/Doctor", vec![8, 1]),
        ("/bpfd.v1.SystemService/GetState", vec![8, 1]),
        ("/bpfd.v1.SystemService/AdoptState", vec![8, 1]),
        ("/bpfd.v1.SystemService/DiscardState", vec![8, 1]),
        ("/grpc.health.v1.Health/Check", [&[10, 18][..], b"bpfd.v1.AppService"].concat()),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", vec![58, 1, 42]),
    ]
}
