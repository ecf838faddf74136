//! SystemService: what this daemon is, and whether all is well.

use std::sync::Arc;

use bpfd_core::ask::Look;
use bpfd_proto::v1 as pb;
use bpfd_proto::v1::CheckStatus;
use tonic::{Request, Response, Status};

use super::{Context, principal, status, view};

/// Broken invariants that an answer lists, as it must fit one message.
const SHOWN: usize = 256;

pub(super) struct System(pub(super) Arc<Context>);

#[tonic::async_trait]
impl pb::system_service_server::SystemService for System {
    async fn get_info(&self, request: Request<pb::GetInfoRequest>) -> Result<Response<pb::GetInfoResponse>, Status> {
        self.0.permit(principal(&request)?, Look).await?;
        let start = &self.0.start;
        let state = match (start.causes.as_slice(), start.recovered) {
            ([], None) => pb::DaemonState::Ready,
            ([], Some(_)) => pb::DaemonState::Recovered,
            ([_, ..], _) => pb::DaemonState::Degraded,
        };
        let system = rustix::system::uname();
        Ok(Response::new(pb::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("BPFD_COMMIT").unwrap_or_default().to_owned(),
            state: state.into(),
            causes: start.causes.iter().cloned().chain(start.recovered.map(str::to_owned)).collect(),
            kernel: system.release().to_string_lossy().into_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            root: self.0.layout.root.as_ref().map(|root| root.display().to_string()),
            pin_directory: self.0.layout.pins().display().to_string(),
            start_time: view::time(start.time),
            xdp_chain_mode: start.mode.clone(),
            xdp_chain_mode_cause: start.mode_cause.clone(),
        }))
    }

    async fn doctor(&self, request: Request<pb::DoctorRequest>) -> Result<Response<pb::DoctorResponse>, Status> {
        self.0.permit(principal(&request)?, Look).await?;
        let checked = self.0.engine.call(|engine| engine.check()).await;
        let broken = checked.map_err(|error| status::engine("cannot check", error))?;
        let broken = broken.map_err(|error| status::observe(&error))?;
        let start = &self.0.start;
        let mut checks =
            vec![check("xdp-chain-mode", CheckStatus::Ok, format!("{}: {}", start.mode, start.mode_cause), "")];
        let causes = start.causes.iter().map(|cause| {
            check("start", CheckStatus::Warn, cause.clone(), "mend that, then restart bpfd; its log has more")
        });
        checks.extend(causes);
        let more = broken.len().saturating_sub(SHOWN);
        let more = (more > 0).then(|| check("invariants", CheckStatus::Fail, format!("and {more} more"), ""));
        let broken = broken.iter().take(SHOWN).map(|broken| {
            check(
                &broken.invariant,
                CheckStatus::Fail,
                broken.what.clone(),
                "restart bpfd: start-up repairs what it can",
            )
        });
        let before = checks.len();
        checks.extend(broken.chain(more));
        if checks.len() == before {
            let detail = "rows, pins and hooks agree".to_owned();
            checks.push(check("invariants", CheckStatus::Ok, detail, ""));
        }
        let sysctl = std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").unwrap_or_default();
        checks.push(match sysctl.trim() {
            "0" => check(
                "unprivileged-bpf",
                CheckStatus::Warn,
                "any user may load BPF programs beside bpfd".to_owned(),
                "`sysctl -w kernel.unprivileged_bpf_disabled=1`",
            ),
            value => check("unprivileged-bpf", CheckStatus::Ok, format!("unprivileged_bpf_disabled is `{value}`"), ""),
        });
        Ok(Response::new(pb::DoctorResponse { checks }))
    }
}

fn check(id: &str, status: CheckStatus, detail: String, hint: &str) -> pb::Check {
    pb::Check { id: id.to_owned(), status: status.into(), detail, hint: hint.to_owned() }
}
