//! ChainService: what shared hooks run, by the kernel's word at this moment.

use std::sync::Arc;

use bpfd_core::ask::Look;
use bpfd_core::hook::ChainKey;
use bpfd_core::names::Netns;
use bpfd_core::wire;
use bpfd_proto::status::Refusal;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::ErrorReason;
use tonic::{Request, Response, Status};

use super::{Context, principal, status, view};
use crate::pages::{self, Page};

pub(super) struct Chains(pub(super) Arc<Context>);

/// The chain of an interface that is there.
pub(super) async fn look(context: &Context, key: ChainKey) -> Result<pb::Chain, Status> {
    let asked = key.clone();
    let looked = context.engine.call(move |engine| engine.look(&asked)).await;
    let snapshot = looked.map_err(|error| status::engine("cannot read the chain", error))?;
    let snapshot = snapshot.map_err(|error| status::observe(&error))?;
    let chain = view::chain(&snapshot, &key, &context.layout.bpffs);
    chain.ok_or_else(|| {
        let refusal = match snapshot.observed.absent_netns(&key) {
            Some(netns) => Refusal::new(ErrorReason::NoSuchNetns, format!("no network namespace `{netns}`"))
                .hint("`ip netns` shows network namespaces that have a name"),
            None => Refusal::new(
                ErrorReason::NoSuchInterface,
                format!("no interface `{}` in network namespace `{}`", key.interface, key.netns),
            )
            .hint(format!("`{}` shows interfaces", status::show_interfaces(&key))),
        };
        refusal.into()
    })
}

#[tonic::async_trait]
impl pb::chain_service_server::ChainService for Chains {
    async fn get_chain(&self, request: Request<pb::GetChainRequest>) -> Result<Response<pb::Chain>, Status> {
        self.0.permit(principal(&request)?, Look).await?;
        let pb::GetChainRequest { netns, interface, hook: _ } = request.get_ref();
        let key = wire::xdp_chain(netns.as_deref(), interface).map_err(super::bad_field)?;
        Ok(Response::new(look(&self.0, key).await?))
    }

    async fn list_chains(
        &self,
        request: Request<pb::ListChainsRequest>,
    ) -> Result<Response<pb::ListChainsResponse>, Status> {
        self.0.permit(principal(&request)?, Look).await?;
        let pb::ListChainsRequest { page_size, page_token } = request.into_inner();
        let size = pages::size(page_size).map_err(super::bad_field)?;
        let snapshot = self.0.snapshot();
        // The host's own first: a name begins with no space.
        let place = |key: &ChainKey| match &key.netns {
            Netns::Host => format!(" {key}"),
            Netns::Named(_) => key.to_string(),
        };
        let there = |key: &&ChainKey| snapshot.observed.chains.get(*key).is_some_and(|seen| seen.interface.is_some());
        let keys = snapshot.observed.chains.keys().filter(there).map(|key| (place(key), key));
        let mut keys: Vec<(String, &ChainKey)> = keys.filter(|(place, _)| *place > page_token).collect();
        keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        let (snapshot, bpffs) = (&snapshot, &self.0.layout.bpffs);
        let made =
            keys.into_iter().map(|(place, key)| (place, || view::chain(snapshot, key, bpffs).unwrap_or_default()));
        let Page { items: chains, next: next_page_token } = pages::page(size, made);
        Ok(Response::new(pb::ListChainsResponse { chains, next_page_token }))
    }
}
