//! All roles in one process, over the embedded parts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use windrow_coordinator::{JanitorSettings, Parts};
use windrow_embedded::{Database, EmbeddedLog, EmbeddedMeta};
use windrow_gateway::Gateway;
use windrow_ports::meta::{Op, Txn};
use windrow_ports::{Clock, Log, MetaStore, SystemClock};
use windrow_processing::{Engine, EngineSettings};
use windrow_protocol::WorkerId;
use windrow_protocol::state::keys;
use windrow_storage::{S3Settings, Store};
use windrow_worker::{Scratch, Tools};

use crate::connect;

/// Partitions of topics that are made at their first reading.
const PARTITIONS: i32 = 4;

/// Memory of all queries before they spill.
const QUERY_MEMORY_BYTES: usize = 256 * 1024 * 1024;

/// A running single-process cluster.
pub struct Cluster {
    pub log: Arc<EmbeddedLog>,
    pub meta: Arc<EmbeddedMeta>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub gateway: Arc<Gateway>,
    /// Cancelled when the worker runs no more, whatever the reason; [`Cluster::stop`] tells it.
    pub worker_ended: CancellationToken,
    stop: CancellationToken,
    coordinator: JoinHandle<()>,
    worker: JoinHandle<Result<()>>,
    _scratch: Scratch,
}

/// Waits until the database has failed, as on a full disk; why.
async fn failed(log: &dyn Log, meta: &dyn MetaStore, clock: &dyn Clock) -> anyhow::Error {
    loop {
        clock.sleep(Duration::from_secs(1)).await;
        if let Err(error) = log.ping().await {
            return error.into();
        }
        if let Err(error) = meta.ping().await {
            return error.into();
        }
    }
}

impl Cluster {
    /// Opens the parts under a folder and starts the roles.
    pub async fn start(folder: &Path, janitor: JanitorSettings) -> Result<Self> {
        let folder = std::path::absolute(folder).context("data directory")?;
        let db = Database::open(&folder.join("windrow.redb"))?;
        let (meta, path) = (db.meta(), folder.join("store"));
        // Another one, that is made now, would be taken for all that there is.
        ensure!(
            path.exists() || meta.get(keys::STORE).await?.is_none(),
            "the results that {} knows of lie in {}, and that is not there: put it back, or remove the database, too, to \
             begin anew",
            folder.join("windrow.redb").display(),
            path.display()
        );
        let store = Store::open(&format!("file://{}", path.display()), &S3Settings::default())?;
        // Database and store are in one folder: wherever that has been moved, they belong together.
        let moved = Op::put(keys::STORE, serde_json::to_vec(store.url())?);
        meta.txn(Txn { when: Vec::new(), then: vec![moved] }).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let stop = CancellationToken::new();
        let parts = Parts { log: db.log(), meta, clock: clock.clone(), store: store.clone() };
        let settings = windrow_coordinator::Settings { tick: Duration::from_millis(50), janitor, ..Default::default() };
        let coordinator = tokio::spawn(windrow_coordinator::run(parts, settings, stop.clone()));
        let scratch = connect::scratch(Some(folder.join("scratch")))?;
        let files = scratch.folder().to_owned();
        let engine = Engine::new(EngineSettings { memory_bytes: QUERY_MEMORY_BYTES, scratch: files.clone() });
        let tools = Tools::new(db.log(), store.clone(), clock.clone(), engine, files);
        let slots = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
        let settings = windrow_worker::Settings {
            id: WorkerId::new(format!("worker-{}", uuid::Uuid::new_v4()))?,
            slots,
            lease_ttl: Duration::from_secs(10),
            grace: Duration::from_secs(30),
        };
        let worker_ended = CancellationToken::new();
        let (running, ended) =
            (windrow_worker::run(tools, db.meta(), settings, stop.clone()), worker_ended.clone().drop_guard());
        let (log, meta, pace) = (db.log(), db.meta(), clock.clone());
        let worker = tokio::spawn(async move {
            let _ended = ended;
            tokio::select! {
                ended = running => Ok(ended?),
                cause = failed(&*log, &*meta, &*pace) => bail!(
                    "the embedded database has failed ({cause}): see that its disk works and has room, then start again"
                ),
            }
        });
        let settings = windrow_gateway::Settings { create_partitions: Some(PARTITIONS), ..Default::default() };
        let gateway = Gateway::new(db.log(), clock.clone(), settings);
        let (log, meta) = (db.log(), db.meta());
        Ok(Self { log, meta, store, clock, gateway, worker_ended, stop, coordinator, worker, _scratch: scratch })
    }

    /// Stops the roles: what runs is finished, nothing new is taken.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.coordinator.await?;
        self.worker.await?
    }
}
