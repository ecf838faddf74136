//! A client of the `bpfd.v1` API: one method a verb, errors with reason, cause and hint.
//! It decides nothing and reads no file; what is not in the API is not here.
//!
//! ```no_run
//! # async fn example() -> Result<(), bpfd_client::ClientError> {
//! use std::{path::Path, time::Duration};
//! let mut client = bpfd_client::Client::connect(Path::new("/run/bpfd/bpfd.sock"), Duration::from_secs(1)).await?;
//! for app in client.apps(Default::default()).await? {
//!     println!("{} {}", app.name, app.uid);
//! }
//! # Ok(())
//! # }
//! ```

mod connect;
mod error;

use std::path::Path;
use std::time::Duration;

use bpfd_proto::v1::app_service_client::AppServiceClient;
use bpfd_proto::v1::chain_service_client::ChainServiceClient;
use bpfd_proto::v1::image_service_client::ImageServiceClient;
use bpfd_proto::v1::link_service_client::LinkServiceClient;
use bpfd_proto::v1::map_service_client::MapServiceClient;
use bpfd_proto::v1::policy_service_client::PolicyServiceClient;
use bpfd_proto::v1::system_service_client::SystemServiceClient;
use bpfd_proto::v1::{self as pb, import_images_request, load_response, pull_response};
use bpfd_proto::{MESSAGE_LIMIT, UPLOAD_CHUNK};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Channel;

pub use bpfd_proto as proto;
pub use error::ClientError;

/// The result of every call.
pub type Result<T> = std::result::Result<T, ClientError>;

/// Pages that a list is read in at most: with the page size below a million entries, far above any daemon's quotas.
const PAGES: usize = 1000;
/// Entries a page at most: the daemon puts as many on it as fit one message.
const PAGE_SIZE: u32 = 100;

/// A connection to one daemon. Cheap to clone; calls of clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    apps: AppServiceClient<Channel>,
    links: LinkServiceClient<Channel>,
    chains: ChainServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    maps: MapServiceClient<Channel>,
    policy: PolicyServiceClient<Channel>,
    system: SystemServiceClient<Channel>,
}

/// A fresh id for the `request_id` of a mutating request. Sending the same request again with the same id is safe.
pub fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

macro_rules! service {
    ($service:ident, $channel:expr) => {
        $service::new($channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
    };
}

/// One unary call a method.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $service:ident.$call:ident($request:ident) -> $response:ident;)*) => {
        $($(#[$doc])*
        pub async fn $name(&mut self, request: pb::$request) -> Result<pb::$response> {
            Ok(self.$service.$call(request).await?.into_inner())
        })*
    };
}

/// One paged list a method: all pages, in the server's order.
macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident = $service:ident.$call:ident($request:ident).$items:ident -> $item:ident;)*) => {
        $($(#[$doc])*
        pub async fn $name(&mut self, mut request: pb::$request) -> Result<Vec<pb::$item>> {
            let mut all = Vec::new();
            request.page_size.get_or_insert(PAGE_SIZE);
            for _ in 0..PAGES {
                let page = self.$service.$call(request.clone()).await?.into_inner();
                all.extend(page.$items);
                if page.next_page_token.is_empty() {
                    return Ok(all);
                }
                request.page_token = page.next_page_token;
            }
            Err(ClientError::endless_list())
        })*
    };
}

impl Client {
    /// Connects to the unix socket `path`. If nobody listens there, tries again until `wait` has passed: a daemon that was
    /// started a moment ago is still on its way.
    ///
    /// # Errors
    /// `DAEMON_UNREACHABLE`, or `SOCKET_DENIED` if the caller may not open the socket.
    pub async fn connect(path: &Path, wait: Duration) -> Result<Self> {
        let channel = connect::channel(path, wait).await?;
        Ok(Self {
            apps: service!(AppServiceClient, channel.clone()),
            links: service!(LinkServiceClient, channel.clone()),
            chains: service!(ChainServiceClient, channel.clone()),
            images: service!(ImageServiceClient, channel.clone()),
            maps: service!(MapServiceClient, channel.clone()),
            policy: service!(PolicyServiceClient, channel.clone()),
            system: service!(SystemServiceClient, channel),
        })
    }

    /// Sends the bytes of one ELF object; the answer has the digest for [`pb::LoadRequest`].
    pub async fn upload(&mut self, object: &[u8]) -> Result<pb::UploadObjectResponse> {
        let chunks: Vec<_> =
            object.chunks(UPLOAD_CHUNK).map(|chunk| pb::UploadObjectRequest { chunk: chunk.to_vec() }).collect();
        Ok(self.apps.upload_object(tokio_stream::iter(chunks)).await?.into_inner())
    }

    /// Loads, and attaches if asked. `progress` is called for each state on the way.
    pub async fn load(
        &mut self,
        request: pb::LoadRequest,
        mut progress: impl FnMut(pb::Progress),
    ) -> Result<pb::LoadResult> {
        let mut events = self.apps.load(request).await?.into_inner();
        while let Some(response) = events.message().await? {
            match response.event {
                Some(load_response::Event::Progress(state)) => progress(state),
                Some(load_response::Event::Result(result)) => return Ok(result),
                // An event of a newer daemon: nothing that this client waits for.
                None => {}
            }
        }
        Err(ClientError::no_result())
    }

    /// Pulls an image into the daemon's store. `progress` as in [`Client::load`].
    pub async fn pull(
        &mut self,
        request: pb::PullRequest,
        mut progress: impl FnMut(pb::Progress),
    ) -> Result<pb::PullResult> {
        let mut events = self.images.pull(request).await?.into_inner();
        while let Some(response) = events.message().await? {
            match response.event {
                Some(pull_response::Event::Progress(state)) => progress(state),
                Some(pull_response::Event::Result(result)) => return Ok(result),
                None => {}
            }
        }
        Err(ClientError::no_result())
    }

    /// Imports an archive of images, sent in these pieces.
    pub async fn import_images(
        &mut self,
        start: pb::ImportStart,
        archive: impl Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<pb::ImportImagesResponse> {
        let part = |part| pb::ImportImagesRequest { part: Some(part) };
        let chunks = archive.map(move |chunk| part(import_images_request::Part::Chunk(chunk)));
        let parts = tokio_stream::once(part(import_images_request::Part::Start(start))).chain(chunks);
        Ok(self.images.import_images(parts).await?.into_inner())
    }

    /// An archive of images, piece by piece to `sink`, which ends it if it fails.
    pub async fn export_images<E>(
        &mut self,
        request: pb::ExportImagesRequest,
        mut sink: impl FnMut(Vec<u8>) -> std::result::Result<(), E>,
    ) -> Result<std::result::Result<(), E>> {
        let mut pieces = self.images.export_images(request).await?.into_inner();
        while let Some(pb::ExportImagesResponse { chunk }) = pieces.message().await? {
            if let Err(error) = sink(chunk) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// The whole verifier log of a failed load, piece by piece to `sink`.
    pub async fn load_log(&mut self, log_id: String, mut sink: impl FnMut(&str)) -> Result<()> {
        let mut pieces = self.apps.get_load_log(pb::GetLoadLogRequest { log_id }).await?.into_inner();
        while let Some(piece) = pieces.message().await? {
            sink(&piece.text);
        }
        Ok(())
    }

    /// What runs, as the text of a file of programs.d.
    pub async fn export_programs(&mut self, apps: Vec<String>) -> Result<String> {
        let mut pieces = self.system.export_programs(pb::ExportProgramsRequest { apps }).await?.into_inner();
        let mut text = String::new();
        while let Some(piece) = pieces.message().await? {
            text.push_str(&piece.text);
        }
        Ok(text)
    }

    /// All elements of a map, page by page to `sink`, which ends the dump if it gives false.
    pub async fn dump_map(
        &mut self,
        request: pb::DumpMapRequest,
        mut sink: impl FnMut(pb::DumpMapResponse) -> bool,
    ) -> Result<()> {
        let mut pages = self.maps.dump_map(request).await?.into_inner();
        while let Some(page) = pages.message().await? {
            if !sink(page) {
                break;
            }
        }
        Ok(())
    }

    /// Elements of a map as they change, to `sink`, until that gives false or the app is gone.
    pub async fn watch_map(
        &mut self,
        request: pb::WatchMapRequest,
        mut sink: impl FnMut(pb::WatchMapResponse) -> bool,
    ) -> Result<()> {
        let mut looks = self.maps.watch_map(request).await?.into_inner();
        while let Some(look) = looks.message().await? {
            if !sink(look) {
                break;
            }
        }
        Ok(())
    }

    /// Records of a buffer as they come, to `sink`, until that gives false or the app is gone.
    pub async fn read_records(
        &mut self,
        request: pb::ReadRecordsRequest,
        mut sink: impl FnMut(pb::ReadRecordsResponse) -> bool,
    ) -> Result<()> {
        let mut pieces = self.maps.read_records(request).await?.into_inner();
        while let Some(piece) = pieces.message().await? {
            if !sink(piece) {
                break;
            }
        }
        Ok(())
    }

    calls! {
        /// One app by name or uid.
        app = apps.get_app(GetAppRequest) -> App;
        /// Detaches and forgets apps.
        unload = apps.unload(UnloadRequest) -> UnloadResponse;
        /// Says whether an app is there after a reboot.
        persist = apps.persist(PersistRequest) -> PersistResponse;
        /// Attaches one program of a loaded app.
        attach = links.attach(AttachRequest) -> AttachResponse;
        /// Moves a link within its chain.
        update = links.update_link(UpdateLinkRequest) -> UpdateLinkResponse;
        /// Removes links.
        detach = links.detach(DetachRequest) -> DetachResponse;
        /// One link by name or uid.
        link = links.get_link(GetLinkRequest) -> Link;
        /// The chain of one interface.
        chain = chains.get_chain(GetChainRequest) -> Chain;
        /// Builds the dispatcher of a chain again.
        rebuild_chain = chains.rebuild_chain(RebuildChainRequest) -> RebuildChainResponse;
        /// One element of a map.
        element = maps.get_element(GetElementRequest) -> GetElementResponse;
        /// Makes or changes an element of a map.
        update_element = maps.update_element(UpdateElementRequest) -> UpdateElementResponse;
        /// Removes an element of a map.
        delete_element = maps.delete_element(DeleteElementRequest) -> DeleteElementResponse;
        /// What is in an image of the store.
        inspect = images.inspect_image(InspectImageRequest) -> InspectImageResponse;
        /// What the policy says of an image of the store.
        verify = images.verify_image(VerifyImageRequest) -> VerifyImageResponse;
        /// Gives an image of the store one more name.
        tag_image = images.tag_image(TagImageRequest) -> TagImageResponse;
        /// Removes images from the store.
        remove_images = images.remove_images(RemoveImagesRequest) -> RemoveImagesResponse;
        /// Trusts a key for a scope of images.
        add_trust = policy.add_trust(AddTrustRequest) -> AddTrustResponse;
        /// Who the caller is to the policy.
        whoami = policy.who_am_i(WhoAmIRequest) -> WhoAmIResponse;
        /// What the policy says of a question.
        can_i = policy.can_i(CanIRequest) -> CanIResponse;
        /// The policy in force.
        policy = policy.get_policy(GetPolicyRequest) -> GetPolicyResponse;
        /// Takes away what the policy refuses.
        enforce_policy = policy.enforce_policy(EnforcePolicyRequest) -> EnforcePolicyResponse;
        /// Reads the policy's files again.
        reload_policy = policy.reload_policy(ReloadPolicyRequest) -> ReloadPolicyResponse;
        /// Version, state and paths of the daemon.
        info = system.get_info(GetInfoRequest) -> GetInfoResponse;
        /// What the daemon finds when it looks at what it stands on.
        doctor = system.doctor(DoctorRequest) -> DoctorResponse;
        /// What differs between the database and the pins since the state was lost.
        state = system.get_state(GetStateRequest) -> GetStateResponse;
        /// How the programs stand that files declare.
        program_files = system.list_program_files(ListProgramFilesRequest) -> ListProgramFilesResponse;
        /// Decides that what runs is the intent.
        adopt_state = system.adopt_state(AdoptStateRequest) -> AdoptStateResponse;
        /// Decides that what the database had is the intent.
        discard_state = system.discard_state(DiscardStateRequest) -> DiscardStateResponse;
    }

    lists! {
        /// Apps that the caller may see.
        apps = apps.list_apps(ListAppsRequest).apps -> App;
        /// Links that the caller may see.
        links = links.list_links(ListLinksRequest).links -> Link;
        /// All chains.
        chains = chains.list_chains(ListChainsRequest).chains -> Chain;
        /// Maps of apps that the caller may read.
        maps = maps.list_maps(ListMapsRequest).maps -> AppMap;
        /// Images of the daemon's store.
        images = images.list_images(ListImagesRequest).images -> Image;
    }
}
