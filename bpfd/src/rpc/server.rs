//! The sockets: serves all services, each with the same limits, to whoever [`super::connections`] let in.

use std::sync::Arc;
use std::time::Duration;

use bpfd_proto::v1::app_service_server::AppServiceServer;
use bpfd_proto::v1::chain_service_server::ChainServiceServer;
use bpfd_proto::v1::image_service_server::ImageServiceServer;
use bpfd_proto::v1::link_service_server::LinkServiceServer;
use bpfd_proto::v1::map_service_server::MapServiceServer;
use bpfd_proto::v1::policy_service_server::PolicyServiceServer;
use bpfd_proto::v1::system_service_server::SystemServiceServer;
use bpfd_proto::{FILE_DESCRIPTOR_SET, MESSAGE_LIMIT};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use super::connections::{Connections, accept};
use super::intake::Intake;
use super::v1::{Apps, Chains, ImageApi, Links, MapApi, PolicyApi, System};
use crate::service::Service;
use crate::waiter::Stopping;

/// Calls under way on one connection; the others wait.
const STREAMS: u32 = 32;
/// Bytes of one call that may come before they are asked for. With what is asked for counted ([`super::intake`]), that is what a
/// connection may hold besides; a client of this host sends the next ones at once.
const STREAM_WINDOW: u32 = 64 << 10;
/// The same of all calls on a connection.
const CONNECTION_WINDOW: u32 = 128 << 10;
/// Bytes of the headers of a call: a dozen short ones.
const HEADERS: u32 = 16 << 10;
/// A dead client is noticed by its pings, so that its slot comes free.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long callers may take to read their last answers and to leave, once the daemon is asked to stop and nothing is left to do.
const ANSWERS: Duration = Duration::from_secs(2);

/// Serves all alike until `stop` is ready. Then what the engine was asked for is done and answered; pulls and loads that did not get so
/// far end.
pub async fn serve(
    context: Arc<Service>,
    listeners: Vec<UnixListener>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (health, healthy) = tonic_health::server::health_reporter();
    health.set_serving::<AppServiceServer<Apps>>().await;
    health.set_serving::<LinkServiceServer<Links>>().await;
    health.set_serving::<ChainServiceServer<Chains>>().await;
    health.set_serving::<ImageServiceServer<ImageApi>>().await;
    health.set_serving::<MapServiceServer<MapApi>>().await;
    health.set_serving::<PolicyServiceServer<PolicyApi>>().await;
    health.set_serving::<SystemServiceServer<System>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    macro_rules! limited {
        ($server:expr) => {
            $server.max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
        };
        ($server:ident, $service:expr) => {
            limited!($server::new($service))
        };
    }
    let (begin, stopping) = Stopping::new();
    let engine = context.engine.clone();
    let stop = async move {
        stop.await;
        begin.send_replace(true);
    };
    let (incoming, connections) = mpsc::channel(16);
    let open = Connections::default();
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, open.clone(), incoming.clone()));
    }
    drop(incoming);
    let serving = Server::builder()
        .layer(Intake::new(context.clone()))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS)
        .max_concurrent_streams(STREAMS)
        .concurrency_limit_per_connection(usize::try_from(STREAMS).unwrap_or(usize::MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(limited!(healthy))
        .add_service(limited!(reflection))
        .add_service(limited!(AppServiceServer, Apps(context.clone(), stopping.clone())))
        .add_service(limited!(LinkServiceServer, Links(context.clone())))
        .add_service(limited!(ChainServiceServer, Chains(context.clone())))
        .add_service(limited!(ImageServiceServer, ImageApi { context: context.clone(), stopping: stopping.clone() }))
        .add_service(limited!(MapServiceServer, MapApi(context.clone(), stopping.clone())))
        .add_service(limited!(PolicyServiceServer, PolicyApi { context: context.clone() }))
        .add_service(limited!(SystemServiceServer, System(context)))
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop);
    let overdue = async {
        stopping.begun().await;
        let idle = engine.idle().await;
        tokio::time::sleep(ANSWERS).await;
        idle
    };
    let served = tokio::select! {
        served = serving => served,
        idle = overdue => {
            tracing::warn!(
                idle = idle.is_ok(),
                "closing connections of clients that did not read their answers or disconnect in time"
            );
            Ok(())
        }
    };
    // What callers asked for that have left.
    if engine.idle().await.is_err() {
        tracing::warn!("the engine stopped before the daemon");
    }
    accepting.abort_all();
    Ok(served?)
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error("cannot serve the socket")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors that were built in.
    #[error("cannot describe the API")]
    Reflection(#[from] tonic_reflection::server::Error),
}
