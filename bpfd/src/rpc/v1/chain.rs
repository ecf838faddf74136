//! ChainService: what shared hooks run, by the kernel's word at this moment.

use std::sync::Arc;

use bpfd_proto::codec::v1 as codec;
use bpfd_proto::v1 as pb;
use tonic::{Request, Response, Status};

use super::{bad_field, principal, status};
use crate::service::{LookError, Service};

pub(in crate::rpc) struct Chains(pub(in crate::rpc) Arc<Service>);

#[tonic::async_trait]
impl pb::chain_service_server::ChainService for Chains {
    async fn get_chain(&self, request: Request<pb::GetChainRequest>) -> Result<Response<pb::Chain>, Status> {
        let principal = principal(&request)?;
        let pb::GetChainRequest { netns, interface, hook: _ } = request.get_ref();
        let key = codec::chain_key(netns.as_deref(), interface).map_err(bad_field)?;
        let snapshot = self.0.chain(principal, key.clone()).await.map_err(|error| status::look(&error))?;
        let chain = codec::chain(&snapshot, &key, &self.0.layout);
        Ok(Response::new(chain.ok_or_else(|| status::look(&LookError::NoInterface(key)))?))
    }

    async fn list_chains(
        &self,
        request: Request<pb::ListChainsRequest>,
    ) -> Result<Response<pb::ListChainsResponse>, Status> {
        let snapshot = self.0.chains(principal(&request)?).await.map_err(|denied| status::denied(&denied))?;
        let chains = snapshot.observed.chains.keys();
        let chains = chains.filter_map(|key| codec::chain(&snapshot, key, &self.0.layout)).collect();
        Ok(Response::new(pb::ListChainsResponse { chains }))
    }
}
