//! The servers: HTTP for readings, gRPC with health and reflection. They end in order: readiness turns false, no new
//! connection is taken, open requests are answered, and what is open after a while is cut off unacknowledged.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use windrow_gateway::{Gateway, Readiness};
use windrow_ports::{Log, MetaStore};

/// Pause between two looks at readiness, and how long one may take.
const HEALTH_PAUSE: Duration = Duration::from_secs(1);
const HEALTH_PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of one gRPC stream, and of one connection, that may be under way: a request should not wait for the window.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Pause after which a silent gRPC connection is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Requests of one gRPC connection that are served at once; the others wait.
const MAX_STREAMS: u32 = 128;

/// When servers end.
#[derive(Debug, Clone)]
pub struct Stop {
    pub token: CancellationToken,
    /// How long open requests have from then on.
    pub grace: Duration,
}

impl Stop {
    /// Runs a server to its end, or until the grace is over. One that fails takes the others with it.
    async fn ends(self, server: impl Future<Output = Result<()>>) -> Result<()> {
        let over = async {
            self.token.cancelled().await;
            tokio::time::sleep(self.grace).await;
        };
        let result = tokio::select! {
            result = server => result,
            () = over => {
                tracing::warn!("requests were still open after {:?}: cut off, not acknowledged", self.grace);
                Ok(())
            }
        };
        self.token.cancel();
        result
    }
}

/// Takes an address, before anything that takes longer. Port 0 takes a free one.
pub async fn listen(option: &str, address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}; is another windrow running? {option} takes another"))
}

/// Readings over HTTP. The gateway drains when the server is to stop.
pub async fn http(listener: TcpListener, gateway: Arc<Gateway>, stop: Stop) -> Result<()> {
    let token = stop.token.clone();
    let server = async {
        tracing::info!("gateway listens: http://{}/v1/topics/TOPIC/readings", listener.local_addr()?);
        // Answers are small and waited for.
        let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
        let server = axum::serve(listener, windrow_gateway::http::router(gateway.clone()));
        let stopping = async move {
            token.cancelled().await;
            gateway.drain();
        };
        Ok(server.with_graceful_shutdown(stopping).await?)
    };
    stop.ends(server).await
}

/// gRPC services with health and reflection. `services`: their names, which are healthy while `ready` says so.
pub async fn grpc(
    listener: TcpListener,
    routes: Routes,
    services: &[&str],
    ready: impl AsyncFn() -> bool,
    stop: Stop,
) -> Result<()> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(windrow_wire::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let address = listener.local_addr()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_concurrent_streams(MAX_STREAMS)
        .concurrency_limit_per_connection(MAX_STREAMS as usize)
        .add_routes(routes.add_service(health).add_service(reflection))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.token.clone().cancelled_owned(),
        );
    tracing::info!("gRPC listens: http://{address}");
    let token = stop.token.clone();
    let served = async {
        tokio::select! {
            served = server => served.with_context(|| format!("serving on {address}")),
            never = report(&reporter, services, ready, &token) => match never {},
        }
    };
    stop.ends(served).await
}

/// Keeps health up to date for as long as it is polled.
async fn report(
    reporter: &HealthReporter,
    services: &[&str],
    ready: impl AsyncFn() -> bool,
    stop: &CancellationToken,
) -> std::convert::Infallible {
    loop {
        let is_ready = !stop.is_cancelled() && tokio::time::timeout(HEALTH_PATIENCE, ready()).await.unwrap_or(false);
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        // The empty name is the server as a whole.
        for service in services.iter().chain(&[""]) {
            reporter.set_service_status(*service, status).await;
        }
        if stop.is_cancelled() {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Whether a role is ready, asked anew for each probe.
type Check = Box<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// `/healthz` and `/readyz` of a role that serves nothing else over HTTP. They answer from the start, so that a role that
/// waits for its services is seen to live and to be not ready.
#[derive(Clone, Default)]
pub struct Probes {
    check: Arc<OnceLock<Check>>,
}

impl Probes {
    /// From now on the check decides. Before, the role is not ready.
    pub fn ready_when(&self, check: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static) {
        // A second check would be a second start of one role; the first stays.
        let _ = self.check.set(Box::new(check));
    }

    async fn is_ready(&self) -> bool {
        match self.check.get() {
            Some(check) => tokio::time::timeout(HEALTH_PATIENCE, check()).await.unwrap_or(false),
            None => false,
        }
    }

    /// Serves probes at an address until the role ends; nothing without an address.
    pub async fn serve(&self, address: Option<SocketAddr>, stop: &CancellationToken) -> Result<()> {
        let Some(address) = address else { return Ok(()) };
        let (probes, token) = (self.clone(), stop.clone());
        let ready = move || async move {
            if !token.is_cancelled() && probes.is_ready().await {
                (StatusCode::OK, "ready")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not ready")
            }
        };
        let router = axum::Router::new().route("/healthz", get(|| async { "ok" })).route("/readyz", get(ready));
        let listener = listen("--http", address).await?;
        tracing::info!("probes listen: http://{}/readyz", listener.local_addr()?);
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "probes are not served any more");
            }
        });
        Ok(())
    }
}

/// Whether a gateway takes readings.
pub fn takes_readings(gateway: &Gateway) -> bool {
    gateway.readiness() == Readiness::Ready
}

/// Whether what the coordinator needs answers.
pub async fn can_coordinate(log: &dyn Log, meta: &dyn MetaStore) -> bool {
    let (log, meta) = tokio::join!(log.ping(), meta.ping());
    log.is_ok() && meta.is_ok()
}
