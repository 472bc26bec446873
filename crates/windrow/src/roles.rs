//! The roles as processes of their own, and all of them in one (`dev`). SIGTERM and Ctrl-C finish what runs.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use windrow_coordinator::{JanitorSettings, Parts};
use windrow_gateway::Gateway;
use windrow_ports::cluster::agree_on_store;
use windrow_ports::{Clock, SystemClock};
use windrow_processing::{Engine, EngineSettings};
use windrow_protocol::WorkerId;
use windrow_protocol::state::keys;
use windrow_wire::v1;
use windrow_worker::Tools;

use crate::cluster::Cluster;
use crate::connect::{EtcdArgs, KafkaArgs, StoreArgs, scratch};
use crate::serve::{self, Probes, Stop};

/// Names of the services, for health checks.
const API: [&str; 5] = [
    "windrow.v1.JobService",
    "windrow.v1.WindowService",
    "windrow.v1.BackfillService",
    "windrow.v1.WorkerService",
    "windrow.v1.ClusterService",
];
const INGEST: &str = "windrow.v1.IngestService";

/// How long open requests of the jobs API have at shutdown.
const API_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct GatewayArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Address of the HTTP endpoint.
    #[arg(long, default_value = "127.0.0.1:7071")]
    http: SocketAddr,
    /// Address of the gRPC endpoint.
    #[arg(long, default_value = "127.0.0.1:7072")]
    grpc: SocketAddr,
    /// Make a topic with this many partitions at its first reading; without it, topics must exist.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    create_topics: Option<i32>,
    /// Milliseconds that a reading waits for others to share its block with.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=10_000))]
    linger_ms: u64,
    /// MiB of requests in flight; more requests wait.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(16..))]
    max_in_flight_mib: u64,
    /// Seconds that open requests have to be answered at shutdown.
    #[arg(long, default_value_t = 30)]
    grace_seconds: u64,
}

#[derive(Debug, clap::Args)]
pub struct CoordinatorArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Address of the gRPC API.
    #[arg(long, default_value = "127.0.0.1:7070")]
    grpc: SocketAddr,
    /// Address of /healthz and /readyz over HTTP; none by default.
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Seconds that leadership outlives a leader that died.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
    lease_seconds: u64,
    /// Seconds between two rounds in which staged files are removed that nobody will publish, and windows whose retention
    /// has ended.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    janitor_seconds: u64,
    /// Seconds that the files of an attempt are left alone after its batch is done: longer than a worker can be paused.
    #[arg(long, default_value_t = 3_600)]
    staging_grace_seconds: u64,
}

#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    etcd: EtcdArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// Address of /healthz and /readyz over HTTP; none by default.
    #[arg(long)]
    http: Option<SocketAddr>,
    /// Batches that run at once; one per core by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: Option<u32>,
    /// Memory of all queries before they spill, in MiB. Default: 256, or 32 for each slot where that is more.
    #[arg(long, value_parser = clap::value_parser!(u64).range(16..))]
    memory_mib: Option<u64>,
    /// Folder for files of running batches; may be lost at any time. A temporary one if absent.
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Seconds after which the batches of a worker that died go to others.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
    lease_seconds: u64,
    /// Seconds that running batches have to finish at shutdown before they are handed back.
    #[arg(long, default_value_t = 30)]
    grace_seconds: u64,
}

#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Folder of everything: log, metadata, output.
    #[arg(long, default_value = "windrow-data")]
    data_dir: PathBuf,
    /// Address of the gRPC API. With port 0 a free one is taken; stdout says which.
    #[arg(long, default_value = "127.0.0.1:7070")]
    grpc: SocketAddr,
    /// Address of the HTTP endpoint for readings; likewise.
    #[arg(long, default_value = "127.0.0.1:7071")]
    http: SocketAddr,
    /// Seconds between two rounds in which staged files and old windows are removed.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    janitor_seconds: u64,
}

/// Cancelled by SIGTERM or Ctrl-C; a second signal ends the process at once.
fn shutdown() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let told = token.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("shutting down: finishing what runs");
        told.cancel();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(130);
    });
    Ok(token)
}

/// Ends early if a signal comes while a part is still waited for.
async fn unless_stopped<T>(stop: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        () = stop.cancelled() => anyhow::bail!("stopped before everything was reached"),
        result = work => result,
    }
}

/// `windrow gateway`.
pub async fn gateway(args: GatewayArgs) -> Result<()> {
    let stop = shutdown()?;
    let (http, grpc) = (serve::listen("--http", args.http).await?, serve::listen("--grpc", args.grpc).await?);
    // A Kafka that is down at the start is like one that is down later: readiness says so, and requests are told to come again.
    let log = args.kafka.open("windrow-gateway")?;
    let mut settings = windrow_gateway::Settings { create_partitions: args.create_topics, ..Default::default() };
    settings.limits.linger = Duration::from_millis(args.linger_ms);
    settings.max_in_flight_bytes = usize::try_from(args.max_in_flight_mib.saturating_mul(1024 * 1024))?;
    let gateway = Gateway::new(log, Arc::new(SystemClock::default()), settings);
    let routes = Routes::new(windrow_gateway::grpc::service(gateway.clone()));
    let stop = Stop { token: stop, grace: Duration::from_secs(args.grace_seconds) };
    let ready = async || serve::takes_readings(&gateway);
    tokio::try_join!(
        serve::http(http, gateway.clone(), stop.clone()),
        serve::grpc(grpc, routes, &[INGEST], ready, stop),
    )?;
    Ok(())
}

/// `windrow coordinator`.
pub async fn coordinator(args: CoordinatorArgs) -> Result<()> {
    let (stop, probes) = (shutdown()?, Probes::default());
    probes.serve(args.http, &stop).await?;
    let grpc = serve::listen("--grpc", args.grpc).await?;
    let log = unless_stopped(&stop, args.kafka.connect("windrow-coordinator")).await?;
    let meta = unless_stopped(&stop, args.etcd.connect()).await?;
    let parts = Parts { log, meta, clock: Arc::new(SystemClock::default()), store: args.store.open()? };
    let agreed = async { Ok(agree_on_store(parts.store.url(), &*parts.meta, &*parts.clock).await?) };
    unless_stopped(&stop, agreed).await?;
    let settings = windrow_coordinator::Settings {
        id: format!("{}-{}", args.grpc, uuid::Uuid::now_v7()),
        lease_ttl: Duration::from_secs(args.lease_seconds),
        janitor: JanitorSettings {
            every: Duration::from_secs(args.janitor_seconds),
            grace: Duration::from_secs(args.staging_grace_seconds),
        },
        ..Default::default()
    };
    let leading = tokio::spawn(windrow_coordinator::run(parts.clone(), settings, stop.clone()));
    let (log, meta) = (parts.log.clone(), parts.meta.clone());
    probes.ready_when(move || {
        let (log, meta) = (log.clone(), meta.clone());
        async move { serve::can_coordinate(&*log, &*meta).await }.boxed()
    });
    let (log, meta) = (parts.log.clone(), parts.meta.clone());
    let ready = async || serve::can_coordinate(&*log, &*meta).await;
    let ends = Stop { token: stop.clone(), grace: API_GRACE };
    let told = told(args.store.told(), v1::LogKind::Kafka);
    let routes = windrow_coordinator::api::services(parts, told, stop.clone());
    // Neither goes on without the other: a coordinator that answers but can't lead would look healthy.
    let (served, led) = tokio::join!(
        serve::grpc(grpc, routes, &API, ready, ends).inspect(|_| stop.cancel()),
        leading.inspect(|_| stop.cancel()),
    );
    led?;
    served
}

/// `windrow worker`.
pub async fn worker(args: WorkerArgs) -> Result<()> {
    let (stop, probes) = (shutdown()?, Probes::default());
    probes.serve(args.http, &stop).await?;
    let log = unless_stopped(&stop, args.kafka.connect("windrow-worker")).await?;
    let meta = unless_stopped(&stop, args.etcd.connect()).await?;
    let store = unless_stopped(&stop, args.store.connect()).await?;
    let scratch = scratch(args.scratch)?;
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
    let slots = args.slots.unwrap_or(cores);
    // A query that sorts holds 10 MiB of it from its first row on.
    let memory_mib = args.memory_mib.unwrap_or_else(|| 256.max(32 * u64::from(slots)));
    let memory_bytes = usize::try_from(memory_mib.saturating_mul(1024 * 1024))?;
    let engine = Engine::new(EngineSettings { memory_bytes, scratch: scratch.folder().to_owned() });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let settings = windrow_worker::Settings {
        id: WorkerId::new(format!("worker-{}", uuid::Uuid::now_v7()))?,
        slots,
        lease_ttl: Duration::from_secs(args.lease_seconds),
        grace: Duration::from_secs(args.grace_seconds),
    };
    // Ready is who is registered under a live lease.
    let (registered, key) = (meta.clone(), keys::worker(&settings.id));
    probes.ready_when(move || {
        let (meta, key) = (registered.clone(), key.clone());
        async move { meta.get(&key).await.is_ok_and(|found| found.is_some()) }.boxed()
    });
    let tools = Tools::new(log, store, clock, engine, scratch.folder().to_owned());
    Ok(windrow_worker::run(tools, meta, settings, stop).await?)
}

/// What clients are told of the cluster.
fn told(store: v1::ObjectStore, log: v1::LogKind) -> v1::Cluster {
    v1::Cluster { version: env!("CARGO_PKG_VERSION").to_owned(), store: Some(store), log: log.into() }
}

/// `windrow dev`. Its addresses go to stdout once they are taken, for scripts that let it choose.
pub async fn dev(args: DevArgs) -> Result<()> {
    let stop = shutdown()?;
    let (grpc, http) = (serve::listen("--grpc", args.grpc).await?, serve::listen("--http", args.http).await?);
    let janitor = JanitorSettings { every: Duration::from_secs(args.janitor_seconds), ..JanitorSettings::default() };
    let cluster = Cluster::start(&args.data_dir, janitor).await?;
    let mut out = std::io::stdout();
    writeln!(out, "grpc http://{}\nhttp http://{}", grpc.local_addr()?, http.local_addr()?)?;
    out.flush()?;
    let (log, meta) = (cluster.log.clone(), cluster.meta.clone());
    let parts = Parts { log, meta, clock: cluster.clock.clone(), store: cluster.store.clone() };
    let store = v1::ObjectStore { url: cluster.store.url().to_owned(), ..Default::default() };
    let ingest = windrow_gateway::grpc::service(cluster.gateway.clone());
    let api = windrow_coordinator::api::services(parts, told(store, v1::LogKind::Embedded), stop.clone());
    let ends = Stop { token: stop.clone(), grace: API_GRACE };
    // Servers without a worker behind them would look healthy.
    let worker_ended = cluster.worker_ended.clone();
    tokio::spawn(async move {
        worker_ended.cancelled().await;
        stop.cancel();
    });
    let ready =
        async || serve::takes_readings(&cluster.gateway) && serve::can_coordinate(&*cluster.log, &*cluster.meta).await;
    let services: Vec<&str> = API.into_iter().chain([INGEST]).collect();
    let servers = tokio::try_join!(
        serve::http(http, cluster.gateway.clone(), ends.clone()),
        serve::grpc(grpc, api.add_service(ingest), &services, ready, ends),
    );
    cluster.stop().await?;
    servers.map(drop)
}
