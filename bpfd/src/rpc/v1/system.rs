//! SystemService: what this daemon is, and whether all is well.

use std::sync::Arc;

use bpfd_core::adopt::Decision;
use bpfd_core::policy::Principal;
use bpfd_core::request::NAMES_MAX;
use bpfd_proto::codec::v1::{self as codec, BadField};
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::CheckStatus;
use tonic::{Request, Response, Status};

use super::app::pieces;
use super::{bad_field, principal, status};
use crate::service::{
    Check, Condition, Decided, DoctorError, Info, LostState, ProgramState, ProgramStatus, Service, Start,
};

pub(in crate::rpc) struct System(pub(in crate::rpc) Arc<Service>);

#[tonic::async_trait]
impl pb::system_service_server::SystemService for System {
    async fn get_info(&self, request: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        let info = self.0.info(principal(&request)?).await.map_err(|denied| status::denied(&denied))?;
        let Info { start, bad_policy, recovered: lost, kernel, root, pins } = info;
        let Start { time, causes, failures: _, recovered, mode, mode_cause } = start;
        let causes: Vec<String> = causes.into_iter().chain(bad_policy).collect();
        let state = match (lost, causes.as_slice()) {
            (Some(_), _) => pb::DaemonState::Recovered,
            (None, []) => pb::DaemonState::Ready,
            (None, [_, ..]) => pb::DaemonState::Degraded,
        };
        let lost = lost.map(|relation| relation.to_string());
        Ok(Response::new(pb::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("BPFD_COMMIT").unwrap_or_default().to_owned(),
            state: state.into(),
            causes: lost.into_iter().chain(causes).chain(recovered.map(str::to_owned)).collect(),
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

    async fn get_state(&self, request: Request<pb::GetStateRequest>) -> Result<Response<pb::GetStateResponse>, Status> {
        let lost = self.0.lost_state(principal(&request)?).await.map_err(|denied| status::denied(&denied))?;
        Ok(Response::new(match lost {
            Some(LostState { relation, differences }) => codec::lost_state(relation, differences),
            None => pb::GetStateResponse { state: pb::DaemonState::Ready.into(), ..Default::default() },
        }))
    }

    async fn list_program_files(
        &self,
        request: Request<pb::ListProgramFilesRequest>,
    ) -> Result<Response<pb::ListProgramFilesResponse>, Status> {
        let status = self.0.program_files(principal(&request)?).await.map_err(|denied| status::denied(&denied))?;
        let program = |ProgramStatus { file, name, critical, source, state }: &ProgramStatus| {
            let (state, cause) = match state {
                ProgramState::Loaded => (pb::FileProgramState::Loaded, ""),
                ProgramState::Loading(why) => (pb::FileProgramState::Loading, why.as_str()),
                ProgramState::Failed(why) => (pb::FileProgramState::Failed, why.as_str()),
            };
            pb::FileProgram {
                file: file.clone(),
                app: name.to_string(),
                state: state.into(),
                cause: cause.to_owned(),
                critical: *critical,
                source: source.to_string(),
            }
        };
        let bad = |(file, cause): (&String, &String)| pb::BadProgramFile { file: file.clone(), cause: cause.clone() };
        Ok(Response::new(pb::ListProgramFilesResponse {
            programs: status.programs.iter().map(program).collect(),
            bad: status.bad.iter().map(bad).collect(),
        }))
    }

    type ExportProgramsStream = tokio_stream::Iter<std::vec::IntoIter<Result<pb::ExportProgramsResponse, Status>>>;

    async fn export_programs(
        &self,
        request: Request<pb::ExportProgramsRequest>,
    ) -> Result<Response<Self::ExportProgramsStream>, Status> {
        let principal = principal(&request)?;
        let apps = request.into_inner().apps;
        if apps.len() > NAMES_MAX {
            let why = format!("at most {NAMES_MAX} names");
            return Err(bad_field(BadField { field: "apps", why }));
        }
        let text = self.0.exported(principal, &apps.into_iter().collect()).await;
        let text = text.map_err(status::app)?;
        let pieces: Vec<_> = pieces(&text).into_iter().map(|text| Ok(pb::ExportProgramsResponse { text })).collect();
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    async fn adopt_state(
        &self,
        request: Request<pb::AdoptStateRequest>,
    ) -> Result<Response<pb::AdoptStateResponse>, Status> {
        let Decided { decided, failures } = self.decide(principal(&request)?, Decision::Adopt).await?;
        Ok(Response::new(pb::AdoptStateResponse { decided, failures }))
    }

    async fn discard_state(
        &self,
        request: Request<pb::DiscardStateRequest>,
    ) -> Result<Response<pb::DiscardStateResponse>, Status> {
        let Decided { decided, failures } = self.decide(principal(&request)?, Decision::Discard).await?;
        Ok(Response::new(pb::DiscardStateResponse { decided, failures }))
    }
}

impl System {
    async fn decide(&self, principal: Principal, decision: Decision) -> Result<Decided, Status> {
        let decided = self.0.decide(principal, decision).await.map_err(|error| {
            status::refused(error, |error| status::engine(&format!("cannot {decision} the state"), &error))
        })?;
        Ok(Decided { failures: codec::texts(decided.failures), ..decided })
    }
}
