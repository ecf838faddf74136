//! ChainService: what shared hooks run, by the kernel's word at this moment.

use std::sync::Arc;

use bpfd_core::hook::Point;
use bpfd_core::request::RebuildRequest;
use bpfd_core::snapshot::Snapshot;
use bpfd_proto::codec::v1 as codec;
use bpfd_proto::v1 as pb;
use tonic::{Request, Response, Status};

use super::{apply, bad_field, fitting, page, principal, status};
use crate::service::{Changed, LookError, Service};

pub(in crate::rpc) struct Chains(pub(in crate::rpc) Arc<Service>);

#[tonic::async_trait]
impl pb::chain_service_server::ChainService for Chains {
    async fn get_chain(&self, request: Request<pb::GetChainRequest>) -> Result<Response<pb::Chain>, Status> {
        let principal = principal(&request)?;
        let pb::GetChainRequest { netns, interface, hook } = request.get_ref();
        let name = codec::interface_name(netns.as_deref(), interface).map_err(bad_field)?;
        let name = name.chain(codec::point(*hook).map_err(bad_field)?);
        let (snapshot, chain) = self.0.chain(principal, name.clone()).await.map_err(|error| status::look(&error))?;
        let chain = codec::chain(&snapshot, &chain, &self.0.layout);
        Ok(Response::new(chain.ok_or_else(|| status::look(&LookError::NoInterface { chain: name, near: None }))?))
    }

    async fn rebuild_chain(
        &self,
        request: Request<pb::RebuildChainRequest>,
    ) -> Result<Response<pb::RebuildChainResponse>, Status> {
        let principal = principal(&request)?;
        let pb::RebuildChainRequest { netns, interface, dispatcher_version, validate_only } = request.get_ref();
        let name = codec::interface_name(netns.as_deref(), interface).map_err(bad_field)?.chain(Point::Xdp);
        let version = codec::dispatcher_version(*dispatcher_version).map_err(bad_field)?;
        let message = format!("cannot build the dispatcher of `{}` again", name.interface);
        let rebuild = RebuildRequest { chain: name, version };
        let changed = self.0.change(principal, rebuild, apply(*validate_only)).await;
        let Changed { answer, .. } = changed.map_err(|error| status::engine(&message, &error))?;
        Ok(Response::new(pb::RebuildChainResponse { plan: codec::plan(answer.plan) }))
    }

    async fn list_chains(
        &self,
        request: Request<pb::ListChainsRequest>,
    ) -> Result<Response<pb::ListChainsResponse>, Status> {
        let principal = principal(&request)?;
        let pb::ListChainsRequest { page_size, page_token } = request.into_inner();
        let listed = self.0.chains(principal, &page(page_size, page_token)?).await;
        let listed = listed.map_err(|denied| status::denied(&denied))?;
        let chain = |snapshot: &Snapshot, chain| codec::chain(snapshot, &chain, &self.0.layout).unwrap_or_default();
        let (chains, next_page_token) = fitting(listed, chain);
        Ok(Response::new(pb::ListChainsResponse { chains, next_page_token }))
    }
}
