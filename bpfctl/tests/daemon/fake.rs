//! A server of the whole API that answers with constants and keeps what it was asked. Names choose the answer: an app called
//! like an error reason is refused with that reason, one called `never-answers` is never answered.
//!
//! Long because six services answer, each with one whole message.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bpfd_proto::status::Refusal;
use bpfd_proto::v1::app_service_server::{AppService, AppServiceServer};
use bpfd_proto::v1::chain_service_server::{ChainService, ChainServiceServer};
use bpfd_proto::v1::image_service_server::{ImageService, ImageServiceServer};
use bpfd_proto::v1::link_service_server::{LinkService, LinkServiceServer};
use bpfd_proto::v1::policy_service_server::{PolicyService, PolicyServiceServer};
use bpfd_proto::v1::system_service_server::{SystemService, SystemServiceServer};
use bpfd_proto::v1::{self as pb, ErrorReason};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, iter};
use tonic::{Request, Response, Status, Streaming};

/// A digest, wherever one is needed.
pub(crate) const OBJECT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A running fake.
pub(crate) struct Daemon {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Asked>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Default)]
struct Asked {
    upload: Vec<u8>,
    load: pb::LoadRequest,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let asked = Arc::new(Mutex::new(Asked::default()));
        let fake = Fake { asked: asked.clone() };
        let context = runtime.enter();
        let listener = UnixListener::bind(directory.path().join("bpfd.sock")).unwrap();
        drop(context);
        let server = tonic::transport::Server::builder()
            .add_service(AppServiceServer::new(fake.clone()))
            .add_service(LinkServiceServer::new(fake.clone()))
            .add_service(ChainServiceServer::new(fake.clone()))
            .add_service(ImageServiceServer::new(fake.clone()))
            .add_service(PolicyServiceServer::new(fake.clone()))
            .add_service(SystemServiceServer::new(fake));
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Self { directory, asked, _runtime: runtime }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("bpfd.sock")
    }

    /// The bytes of the last upload.
    pub(crate) fn uploaded(&self) -> Vec<u8> {
        self.asked.lock().unwrap().upload.clone()
    }

    pub(crate) fn load_request(&self) -> pb::LoadRequest {
        self.asked.lock().unwrap().load.clone()
    }
}

pub(crate) fn xdp(interface: &str) -> pb::Hook {
    pb::Hook { hook: Some(pb::hook::Hook::Xdp(pb::XdpHook { netns: None, interface: interface.into() })) }
}

#[derive(Clone)]
struct Fake {
    asked: Arc<Mutex<Asked>>,
}

impl Fake {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap()
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

fn events<T: Send + 'static>(all: Vec<T>) -> Answer<Events<T>> {
    Ok(Response::new(Box::pin(iter(all.into_iter().map(Ok)))))
}

/// A refusal of the reason that `name` is, if it is one.
async fn refuse(name: &str) -> Result<(), Status> {
    if name == "never-answers" {
        std::future::pending::<()>().await;
    }
    let Some(reason) = ErrorReason::from_word(name) else { return Ok(()) };
    let refusal = match reason {
        ErrorReason::VerifierRejected => Refusal::new(reason, "the kernel's verifier rejected `pass` (xdp) of `bad`")
            .cause("the program reads beyond what it has proven to be packet")
            .hint("compare `data + 14 > data_end` before this access")
            .verifier(pb::VerifierFailure {
                program: "pass".into(),
                instruction: Some(4),
                file: Some("bad.c".into()),
                line: Some(11),
                column: Some(9),
                source_line: Some("        if (e->proto == 0x0008)".into()),
                message: "invalid access to packet, off=12 size=2, R2(id=0,off=12,r=0)".into(),
                log_id: "7f3a".into(),
                explanation: "bytes of the packet are used that may be behind its end".into(),
            }),
        ErrorReason::ChainFull => Refusal::new(reason, "cannot attach `pass` to `eth0`")
            .cause("all 10 dispatcher slots are taken")
            .hint("run `bpfctl list --interface eth0`, then `bpfctl detach LINK`"),
        ErrorReason::PolicyDenied => Refusal::new(reason, "cannot show\x1b[2J `x`").cause("a control\ncharacter"),
        _ => Refusal::new(reason, format!("cannot do `{name}`")).cause("the name asks for it").hint("give another"),
    };
    Err(refusal.into())
}

fn link(app: &str, interface: &str, priority: u32, position: Option<u32>) -> pb::Link {
    let state = if position.is_some() { pb::LinkState::Attached } else { pb::LinkState::Waiting };
    pb::Link {
        name_now: String::new(),
        uid: format!("00000000-0000-4000-8000-00000000{priority:04}"),
        name: format!("{app}/pass@{interface}:xdp"),
        generation: 1,
        state: state.into(),
        cause: if position.is_some() { String::new() } else { format!("no interface `{interface}`") },
        app: app.into(),
        app_uid: format!("uid-of-{app}"),
        function: "pass".into(),
        hook: Some(xdp(interface)),
        priority: Some(priority),
        effective_priority: Some(priority),
        order: String::new(),
        proceed_on: Some(pb::ProceedOn { xdp: vec![pb::XdpAction::Pass.into(), pb::XdpAction::Tx.into()], tc: vec![] }),
        position,
        xdp_mode: pb::XdpMode::Generic.into(),
        owner_uid: 0,
        origin: pb::LinkOrigin::Request.into(),
        kernel_program_id: position.map(|position| 100 + position),
        create_time: None,
        handle: priority,
        persist: false,
    }
}

fn app(name: &str) -> pb::App {
    let image = pb::ImageOrigin {
        reference: "registry/foo:tag".into(),
        digest: format!("sha256:{OBJECT}"),
        signers: vec!["ci".into()],
    };
    pb::App {
        uid: format!("uid-of-{name}"),
        name: name.into(),
        generation: 3,
        state: pb::AppState::Loaded.into(),
        cause: String::new(),
        owner: Some(pb::Owner { uid: 0, user: Some("root".into()) }),
        source: Some(pb::AppSource {
            source: Some(pb::app_source::Source::Image(image)),
            object_sha256: OBJECT.into(),
        }),
        labels: [("io.ebpf.name".to_owned(), name.to_owned())].into(),
        programs: vec![program("pass", pb::ProgramType::Xdp), program("trace", pb::ProgramType::Tracepoint)],
        maps: vec![pb::Map {
            name: "counters".into(),
            r#type: "percpu_array".into(),
            key_size: 4,
            value_size: 16,
            max_entries: 5,
            kernel_id: Some(7),
            pin_path: Some(format!("/sys/fs/bpf/bpfd/v1/uid-of-{name}/map_counters")),
            shared_from: None,
        }],
        globals: vec![pb::GlobalSetting { name: "sampling".into(), value: "100".into() }],
        create_time: None,
        links: vec![format!("{name}/pass@eth0:xdp")],
        reach: pb::Reach::Kernel.into(),
        handle: 1,
        user_labels: [("team".to_owned(), "edge".to_owned())].into(),
        persist: false,
        program_file: String::new(),
    }
}

fn program(function: &str, kind: pb::ProgramType) -> pb::Program {
    pb::Program {
        function: function.into(),
        section: function.into(),
        r#type: kind.into(),
        kernel_id: Some(42),
        tag: "0123456789abcdef".into(),
        verified_instructions: None,
        handle: 2,
    }
}

fn image() -> pb::Image {
    pb::Image {
        reference: "registry/foo:tag".into(),
        digest: format!("sha256:{OBJECT}"),
        manifest_digest: format!("sha256:{OBJECT}"),
        object_sha256: OBJECT.into(),
        size_bytes: 12_345,
        pull_time: None,
        signers: vec!["ci".into()],
        apps: vec!["counter".into()],
        trusted: true,
    }
}

fn progress(phase: pb::Phase) -> pb::Progress {
    let bytes = (phase == pb::Phase::Fetch).then_some(12_345);
    pb::Progress { phase: phase.into(), digest: None, done_bytes: bytes, total_bytes: bytes }
}

/// Only who asks for a plan gets one, so a verb that does not ask has nothing to show.
fn plan(validate_only: bool, verb: &str) -> Vec<String> {
    if validate_only { vec![format!("first step of {verb}"), format!("second step of {verb}")] } else { vec![] }
}

/// What `--all` leaves.
fn stays(what: &str) -> pb::Warning {
    let (message, hint) = (format!("{what} was not removed: it belongs to root"), "ask its owner, or root".into());
    pb::Warning { reason: "PERMISSION_DENIED".into(), message, hint }
}

fn warning() -> pb::Warning {
    pb::Warning {
        reason: "REGISTRY_UNREACHABLE".into(),
        message: "the registry does not answer; the stored image is used".into(),
        hint: "see `bpfctl image ls` for its age".into(),
    }
}

#[tonic::async_trait]
impl AppService for Fake {
    type LoadStream = Events<pb::LoadResponse>;
    type GetLoadLogStream = Events<pb::GetLoadLogResponse>;

    async fn upload_object(
        &self,
        request: Request<Streaming<pb::UploadObjectRequest>>,
    ) -> Answer<pb::UploadObjectResponse> {
        let mut pieces = request.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.message().await? {
            bytes.extend(piece.chunk);
        }
        let size = bytes.len().try_into().unwrap();
        self.asked().upload = bytes;
        answer(pb::UploadObjectResponse { sha256: OBJECT.into(), size })
    }

    async fn load(&self, request: Request<pb::LoadRequest>) -> Answer<Self::LoadStream> {
        use pb::load_response::Event;
        let request = request.into_inner();
        self.asked().load = request.clone();
        let links = match request.attach.as_slice() {
            [] => vec![],
            _ => vec![link("counter", "eth0", 50, Some(2))],
        };
        let warnings = match request.source {
            Some(pb::load_request::Source::Image(_)) => vec![warning()],
            _ => vec![],
        };
        let result =
            pb::LoadResult { app: Some(app("counter")), links, warnings, plan: plan(request.validate_only, "load") };
        let phases = [pb::Phase::Fetch, pb::Phase::Fetch, pb::Phase::Inspect, pb::Phase::Load];
        let states = phases.map(progress).map(Event::Progress).into_iter();
        events(states.chain([Event::Result(result)]).map(|event| pb::LoadResponse { event: Some(event) }).collect())
    }

    async fn get_app(&self, request: Request<pb::GetAppRequest>) -> Answer<pb::App> {
        let name = request.into_inner().app;
        refuse(&name).await?;
        answer(app(&name))
    }

    async fn list_apps(&self, request: Request<pb::ListAppsRequest>) -> Answer<pb::ListAppsResponse> {
        let request = request.into_inner();
        match (request.interface.as_deref(), request.page_token.as_str()) {
            (Some("eth1"), _) => answer(pb::ListAppsResponse::default()),
            (_, "") => answer(pb::ListAppsResponse { apps: vec![app("counter")], next_page_token: "more".into() }),
            _ => answer(pb::ListAppsResponse { apps: vec![app("filter")], next_page_token: String::new() }),
        }
    }

    async fn persist(&self, request: Request<pb::PersistRequest>) -> Answer<pb::PersistResponse> {
        let pb::PersistRequest { request_id: _, validate_only, app: name, persist } = request.into_inner();
        refuse(&name).await?;
        answer(pb::PersistResponse {
            app: Some(pb::App { persist, ..app(&name) }),
            links: vec![pb::Link { persist, ..link(&name, "eth0", 50, Some(1)) }],
            plan: plan(validate_only, "persist"),
        })
    }

    async fn unload(&self, request: Request<pb::UnloadRequest>) -> Answer<pb::UnloadResponse> {
        if let Some(pb::unload_request::Target::All(_)) = request.get_ref().target {
            return answer(pb::UnloadResponse { warnings: vec![stays("app `counter`")], ..Default::default() });
        }
        answer(pb::UnloadResponse {
            plan: plan(request.get_ref().validate_only, "unload"),
            apps: vec!["counter".into()],
            links: vec!["counter/pass@eth0:xdp".into()],
            ..Default::default()
        })
    }

    async fn get_load_log(&self, _: Request<pb::GetLoadLogRequest>) -> Answer<Self::GetLoadLogStream> {
        let piece = |text: &str| pb::GetLoadLogResponse { text: text.into() };
        events(vec![piece("0: (b7) r0 = 2\n1: (9"), piece("5) exit\n")])
    }
}

#[tonic::async_trait]
impl LinkService for Fake {
    async fn attach(&self, request: Request<pb::AttachRequest>) -> Answer<pb::AttachResponse> {
        answer(pb::AttachResponse {
            link: Some(link("counter", "eth0", 50, Some(2))),
            plan: plan(request.get_ref().validate_only, "attach"),
            ..Default::default()
        })
    }

    async fn update_link(&self, request: Request<pb::UpdateLinkRequest>) -> Answer<pb::UpdateLinkResponse> {
        answer(pb::UpdateLinkResponse {
            link: Some(link("counter", "eth0", 0, Some(1))),
            plan: plan(request.get_ref().validate_only, "update"),
            ..Default::default()
        })
    }

    async fn detach(&self, request: Request<pb::DetachRequest>) -> Answer<pb::DetachResponse> {
        let request = request.into_inner();
        let (links, warnings) = match request.target {
            Some(pb::detach_request::Target::Links(links)) => (links.names, vec![]),
            Some(pb::detach_request::Target::AllOn(on)) if on.interface == "eth1" => {
                (vec![], vec![stays("link `counter/pass@eth1:xdp`")])
            }
            _ => (vec![], vec![]),
        };
        answer(pb::DetachResponse { links, warnings, plan: plan(request.validate_only, "detach") })
    }

    async fn get_link(&self, _: Request<pb::GetLinkRequest>) -> Answer<pb::Link> {
        answer(link("counter", "eth0", 50, None))
    }

    async fn list_links(&self, request: Request<pb::ListLinksRequest>) -> Answer<pb::ListLinksResponse> {
        let request = request.into_inner();
        let links = match request.interface.as_deref() {
            Some("eth1") => vec![],
            _ => vec![link("counter", "eth0", 50, Some(2)), link("filter", "wlan0", 20, None)],
        };
        let links = links.into_iter().filter(|link| request.app.as_ref().is_none_or(|app| *app == link.app_uid));
        answer(pb::ListLinksResponse { links: links.collect(), next_page_token: String::new() })
    }
}

#[tonic::async_trait]
impl ChainService for Fake {
    async fn get_chain(&self, request: Request<pb::GetChainRequest>) -> Answer<pb::Chain> {
        let pb::GetChainRequest { netns, interface, hook: _ } = request.into_inner();
        let pass = || {
            Some(pb::ProceedOn {
                xdp: vec![pb::XdpAction::Pass.into(), pb::XdpAction::DispatcherReturn.into()],
                tc: vec![],
            })
        };
        let foreign = pb::ForeignProgram {
            name: "xdp_filt\x1b[2J".into(),
            holder: "libxdp".into(),
            pin_path: "/sys/fs/bpf/xdp/dispatch-2-9".into(),
        };
        answer(pb::Chain {
            netns,
            interface,
            ifindex: 2,
            hook: pb::ChainHook::Xdp.into(),
            mode: pb::ChainMode::Libxdp.into(),
            mode_cause: "freplace works".into(),
            xdp_mode: pb::XdpMode::Generic.into(),
            kernel_program_id: Some(9),
            slots_used: Some(2),
            slots: Some(10),
            members: vec![
                pb::ChainMember {
                    position: 1,
                    slot: Some(0),
                    program: Some(pb::chain_member::Program::Foreign(foreign)),
                    priority: 10,
                    effective_priority: 10,
                    proceed_on: pass(),
                    kernel_program_id: Some(11),
                    tag: "fedcba9876543210".into(),
                    preference: None,
                },
                pb::ChainMember {
                    position: 2,
                    slot: Some(1),
                    program: Some(pb::chain_member::Program::Link(link("counter", "eth0", 50, Some(2)))),
                    priority: 50,
                    effective_priority: 50,
                    proceed_on: Some(pb::ProceedOn::default()),
                    kernel_program_id: Some(102),
                    tag: "0123456789abcdef".into(),
                    preference: None,
                },
            ],
            findings: vec!["the pins of `xdp_filter` are gone; it still runs".into()],
            dispatcher_version: Some(2),
            shut_out: "libxdp 1.6 and later cannot add to it".into(),
        })
    }

    async fn rebuild_chain(&self, request: Request<pb::RebuildChainRequest>) -> Answer<pb::RebuildChainResponse> {
        let plan = if request.into_inner().validate_only { vec!["build a dispatcher".into()] } else { vec![] };
        answer(pb::RebuildChainResponse { plan })
    }

    async fn list_chains(&self, _: Request<pb::ListChainsRequest>) -> Answer<pb::ListChainsResponse> {
        let request = Request::new(pb::GetChainRequest { interface: "eth0".into(), ..Default::default() });
        answer(pb::ListChainsResponse {
            chains: vec![self.get_chain(request).await?.into_inner()],
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    type PullStream = Events<pb::PullResponse>;

    async fn pull(&self, _: Request<pb::PullRequest>) -> Answer<Self::PullStream> {
        use pb::pull_response::Event;
        let result = pb::PullResult { image: Some(image()), warnings: vec![] };
        let states = [pb::Phase::Resolve, pb::Phase::Verify, pb::Phase::Fetch].map(progress).map(Event::Progress);
        let all = states.into_iter().chain([Event::Result(result)]);
        events(all.map(|event| pb::PullResponse { event: Some(event) }).collect())
    }

    async fn list_images(&self, _: Request<pb::ListImagesRequest>) -> Answer<pb::ListImagesResponse> {
        answer(pb::ListImagesResponse { images: vec![image()], next_page_token: String::new() })
    }

    async fn inspect_image(&self, _: Request<pb::InspectImageRequest>) -> Answer<pb::InspectImageResponse> {
        answer(pb::InspectImageResponse {
            image: Some(image()),
            name: "counter".into(),
            version: "1.2.0".into(),
            license: "GPL".into(),
            platform: "linux/amd64".into(),
            programs: vec![pb::ImageProgram {
                function: "pass".into(),
                section: "xdp/pass".into(),
                r#type: "xdp".into(),
                priority: None,
                proceed_on: vec!["pass".into()],
                optional: false,
                doc: String::new(),
            }],
            maps: vec![pb::ImageMap {
                name: "counters".into(),
                r#type: "percpu_array".into(),
                key_size: 4,
                value_size: 16,
                max_entries: 5,
            }],
            globals: vec![pb::ImageGlobal {
                name: "sampling".into(),
                r#type: "unsigned int".into(),
                read_only: true,
                doc: "one of so many packets".into(),
            }],
        })
    }

    async fn verify_image(&self, request: Request<pb::VerifyImageRequest>) -> Answer<pb::VerifyImageResponse> {
        let row = |requirement: &str, holds, why: &str| pb::ImageRequirement {
            requirement: requirement.into(),
            holds,
            why: why.into(),
        };
        let sections = vec![
            pb::ImageSection {
                scope: "registry/**".into(),
                applies: true,
                why: "it is the most specific scope for this reference".into(),
                requirements: vec![
                    row("{ signed_by = [\"ci\"], identity = \"repository\" }", false, "it is not signed"),
                    row("forbid_downgrade = true", true, "its version is not older"),
                ],
            },
            pb::ImageSection {
                scope: "elsewhere".into(),
                applies: false,
                why: "it is about other references".into(),
                requirements: vec![],
            },
        ];
        answer(pb::VerifyImageResponse {
            sections: if request.into_inner().explain { sections } else { vec![] },
            trusted: false,
            scope: "registry/**".into(),
            signers: vec![],
            findings: vec!["one signature, by a key that the policy does not name".into()],
            digest: format!("sha256:{OBJECT}"),
        })
    }

    async fn tag_image(&self, request: Request<pb::TagImageRequest>) -> Answer<pb::TagImageResponse> {
        let pb::TagImageRequest { name, .. } = request.into_inner();
        answer(pb::TagImageResponse { image: Some(pb::Image { reference: name, ..Default::default() }) })
    }

    async fn import_images(
        &self,
        request: Request<Streaming<pb::ImportImagesRequest>>,
    ) -> Answer<pb::ImportImagesResponse> {
        use pb::import_images_request::Part;
        let (mut parts, mut name, mut bytes) = (request.into_inner(), String::new(), Vec::new());
        while let Some(pb::ImportImagesRequest { part }) = parts.message().await? {
            match part {
                Some(Part::Start(start)) => name = start.name,
                Some(Part::Chunk(chunk)) => bytes.extend(chunk),
                None => {}
            }
        }
        self.asked().upload = bytes;
        answer(pb::ImportImagesResponse { images: vec![pb::Image { reference: name, ..Default::default() }] })
    }

    type ExportImagesStream = Pin<Box<dyn Stream<Item = Result<pb::ExportImagesResponse, Status>> + Send>>;

    async fn export_images(&self, request: Request<pb::ExportImagesRequest>) -> Answer<Self::ExportImagesStream> {
        let chunks = request
            .into_inner()
            .images
            .into_iter()
            .map(|image| Ok(pb::ExportImagesResponse { chunk: image.into_bytes() }));
        answer(Box::pin(iter(chunks.collect::<Vec<_>>())))
    }

    async fn remove_images(&self, request: Request<pb::RemoveImagesRequest>) -> Answer<pb::RemoveImagesResponse> {
        answer(pb::RemoveImagesResponse { images: request.into_inner().images, freed_bytes: 12_345 })
    }
}

#[tonic::async_trait]
impl PolicyService for Fake {
    async fn add_trust(&self, request: Request<pb::AddTrustRequest>) -> Answer<pb::AddTrustResponse> {
        let name = request.into_inner().name;
        answer(pb::AddTrustResponse { path: format!("/etc/bpfd/policy.d/{name}.toml"), key_sha256: OBJECT.into() })
    }

    async fn reload_policy(&self, _: Request<pb::ReloadPolicyRequest>) -> Answer<pb::ReloadPolicyResponse> {
        answer(pb::ReloadPolicyResponse::default())
    }

    async fn who_am_i(&self, _: Request<pb::WhoAmIRequest>) -> Answer<pb::WhoAmIResponse> {
        answer(pb::WhoAmIResponse {
            uid: 1001,
            user: Some("cni".into()),
            groups: vec![815, 1001],
            unit: Some("cni.service".into()),
            rules: vec!["cni".into()],
        })
    }

    async fn can_i(&self, request: Request<pb::CanIRequest>) -> Answer<pb::CanIResponse> {
        answer(match request.into_inner().interface.as_deref() {
            Some("eth0") => pb::CanIResponse {
                why: "rule `cni` allows it, except interface eth0: it is for veth*".into(),
                hint: "ask for what the rule allows, or ask an administrator".into(),
                ..Default::default()
            },
            _ => {
                let (rule, reach) = ("cni".into(), "kernel".into());
                pb::CanIResponse { allowed: true, rule, reach, ..Default::default() }
            }
        })
    }

    async fn get_policy(&self, _: Request<pb::GetPolicyRequest>) -> Answer<pb::GetPolicyResponse> {
        let rule = |id: &str, built_in| pb::PolicyRule {
            id: id.into(),
            built_in,
            text: format!("[[rule]]\nid = \"{id}\"\neffect = \"allow\"\n"),
        };
        answer(pb::GetPolicyResponse {
            files: vec!["/etc/bpfd/policy.toml".into()],
            fault: "policy is refused at /etc/bpfd/policy.d/a.toml:2:1: unknown field `rul`".into(),
            rules: vec![rule("builtin-root", true), rule("cni", false)],
            unknown_names: vec!["ldap-ops".into()],
            signers: vec!["ci".into()],
            images: vec!["registry/team/**".into()],
            orders: vec![pb::PolicyOrder { id: "edge".into(), text: "[[order]]\nid = \"edge\"\n".into() }],
            packet_types: vec!["xdp".into(), "tc".into()],
        })
    }

    async fn enforce_policy(&self, _: Request<pb::EnforcePolicyRequest>) -> Answer<pb::EnforcePolicyResponse> {
        answer(pb::EnforcePolicyResponse {
            refused: vec![pb::RefusedThing { thing: "app `a`".into(), why: "no rule is about u7".into() }],
            apps: vec!["a".into()],
            links: vec!["a/pass@eth0:xdp".into()],
            plan: vec![],
        })
    }
}

#[tonic::async_trait]
impl SystemService for Fake {
    type ExportProgramsStream = Events<pb::ExportProgramsResponse>;

    async fn list_program_files(
        &self,
        _: Request<pb::ListProgramFilesRequest>,
    ) -> Answer<pb::ListProgramFilesResponse> {
        let program = |app: &str, state: pb::FileProgramState, cause: &str, critical| pb::FileProgram {
            file: format!("10-{app}.toml"),
            app: app.into(),
            state: state.into(),
            cause: cause.into(),
            critical,
            source: format!("image registry/{app}:tag"),
        };
        let programs = vec![
            program("counter", pb::FileProgramState::Loaded, "", true),
            program("later", pb::FileProgramState::Loading, "the image store has no `registry/later:tag`", false),
        ];
        answer(pb::ListProgramFilesResponse { programs, bad: vec![] })
    }

    async fn export_programs(&self, request: Request<pb::ExportProgramsRequest>) -> Answer<Self::ExportProgramsStream> {
        let text = |text: String| pb::ExportProgramsResponse { text };
        let apps = request.into_inner().apps;
        events(vec![text("version = 1\n".to_owned()), text(format!("# of {}\n", apps.join(", ")))])
    }

    async fn get_info(&self, _: Request<pb::GetInfoRequest>) -> Answer<pb::GetInfoResponse> {
        answer(pb::GetInfoResponse {
            version: "0.9.0".into(),
            commit: String::new(),
            state: pb::DaemonState::Degraded.into(),
            causes: vec!["no bpffs is mounted".into()],
            kernel: "6.12.0".into(),
            architecture: "x86_64".into(),
            root: None,
            pin_directory: "/sys/fs/bpf/bpfd/v1".into(),
            start_time: None,
            xdp_chain_mode: "fused".into(),
            xdp_chain_mode_cause: "freplace is refused".into(),
        })
    }

    async fn doctor(&self, _: Request<pb::DoctorRequest>) -> Answer<pb::DoctorResponse> {
        let check = |id: &str, status: pb::CheckStatus, detail: &str, hint: &str| pb::Check {
            id: id.into(),
            status: status.into(),
            detail: detail.into(),
            hint: hint.into(),
        };
        answer(pb::DoctorResponse {
            checks: vec![
                check("kernel.version", pb::CheckStatus::Ok, "Linux 6.12", ""),
                check("kernel.freplace", pb::CheckStatus::Warn, "EPERM", "chains run fused; nothing to do"),
            ],
        })
    }

    async fn get_state(&self, _: Request<pb::GetStateRequest>) -> Answer<pb::GetStateResponse> {
        let difference = |side: pb::StateSide, thing: &str, name: &str, detail: &str| pb::StateDifference {
            side: side.into(),
            thing: thing.into(),
            name: name.into(),
            uid: OBJECT[..32].into(),
            detail: detail.into(),
        };
        answer(pb::GetStateResponse {
            state: pb::DaemonState::Recovered.into(),
            cause: "the pins belonged to another database".into(),
            differences: vec![
                difference(pb::StateSide::OnlyRuns, "app", "counter", "of root"),
                difference(pb::StateSide::OnlyInDatabase, "app", "old\u{1b}[2J", "of uid 7"),
            ],
            more: 3,
        })
    }

    async fn adopt_state(&self, _: Request<pb::AdoptStateRequest>) -> Answer<pb::AdoptStateResponse> {
        answer(pb::AdoptStateResponse { decided: false, failures: vec![] })
    }

    async fn discard_state(&self, _: Request<pb::DiscardStateRequest>) -> Answer<pb::DiscardStateResponse> {
        answer(pb::DiscardStateResponse { decided: true, failures: vec!["app `old`: no object".into()] })
    }
}
