//! SystemService: what this daemon is, and whether all is well.

use std::sync::Arc;

use bpfd_proto::codec::v1 as codec;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::CheckStatus;
use tonic::{Request, Response, Status};

use super::{principal, status};
use crate::service::{Check, Condition, DoctorError, Info, Service, Start};

pub(in crate::rpc) struct System(pub(in crate::rpc) Arc<Service>);

#[tonic::async_trait]
impl pb::system_service_server::SystemService for System {
    async fn get_info(&self, request: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        let info = self.0.info(principal(&request)?).await.map_err(|denied| status::denied(&denied))?;
        let Info { start: Start { time, causes, recovered, mode, mode_cause, relation: _ }, kernel, root, pins } = info;
        let state = match (causes.as_slice(), recovered) {
            ([], None) => pb::DaemonState::Ready,
            ([], Some(_)) => pb::DaemonState::Recovered,
            ([_, ..], _) => pb::DaemonState::Degraded,
        };
        Ok(Response::new(pb::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("BPFD_COMMIT").unwrap_or_default().to_owned(),
            state: state.into(),
            causes: causes.into_iter().chain(recovered.map(str::to_owned)).collect(),
            kernel,
            architecture: std::env::consts::ARCH.to_owned(),
            root,
            pin_directory: pins,
            start_time: codec::time(time),
            xdp_chain_mode: mode,
            xdp_chain_mode_cause: mode_cause,
        }))
    }

    async fn doctor(&self, request: Request<pb::DoctorRequest>) -> Result<Response<pb::DoctorResponse>, Status> {
        let checks = self.0.doctor(principal(&request)?).await.map_err(|error| match error {
            DoctorError::Denied(denied) => status::denied(&denied),
            DoctorError::Read(error) => status::read("cannot check", &error),
        })?;
        let check = |Check { id, condition, detail, hint }: Check| pb::Check {
            id,
            status: match condition {
                Condition::Good => CheckStatus::Ok,
                Condition::Doubtful => CheckStatus::Warn,
                Condition::Bad => CheckStatus::Fail,
            }
            .into(),
            detail,
            hint: hint.to_owned(),
        };
        Ok(Response::new(pb::DoctorResponse { checks: checks.into_iter().map(check).collect() }))
    }
}
