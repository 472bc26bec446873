//! Processes that run the roles and are started again when they end, each time as a new node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windrow_coordinator::JanitorSettings;
use windrow_processing::{Engine, EngineSettings};
use windrow_protocol::WorkerId;
use windrow_storage::Store;
use windrow_worker::{AttemptNames, Place, Tools};

use crate::faulty_log::FaultyLog;
use crate::faulty_meta::FaultyMeta;
use crate::faulty_store::{FaultyStore, SimStore};
use crate::link::Link;
use crate::locked;
use crate::log::SimLog;
use crate::meta::SimMeta;
use crate::node::{Node, Service};
use crate::random::Random;
use crate::world::World;

/// What the nodes share.
#[derive(Debug, Clone)]
pub struct Services {
    pub world: World,
    pub log: SimLog,
    pub meta: SimMeta,
    pub store: Arc<SimStore>,
    pub scratch: PathBuf,
}

impl Services {
    fn link(&self, node: &Node, service: Service) -> Link {
        Link { world: self.world.clone(), node: node.clone(), service, may_crash: true }
    }

    pub fn log_for(&self, node: &Node) -> FaultyLog {
        FaultyLog { inner: Arc::new(self.log.clone()), link: self.link(node, Service::Log) }
    }

    pub fn meta_for(&self, node: &Node) -> FaultyMeta {
        FaultyMeta { inner: Arc::new(self.meta.clone()), link: self.link(node, Service::Meta) }
    }

    fn store_for(&self, node: &Node) -> Store {
        let inner = FaultyStore { inner: self.store.clone(), link: self.link(node, Service::Store) };
        Store::new("sim://store", Arc::new(inner))
    }
}

/// How a run's roles are set.
#[derive(Debug, Clone)]
pub struct Roles {
    pub coordinators: u32,
    pub workers: u32,
    pub tick: Duration,
    pub lease_ttl: Duration,
    pub slots: u32,
    pub grace: Duration,
    pub max_in_flight: usize,
    pub janitor: JanitorSettings,
}

impl Roles {
    pub fn draw(random: &mut Random) -> Self {
        Self {
            coordinators: 2,
            workers: 3,
            tick: random.millis(400, 1_500),
            lease_ttl: random.millis(3_000, 10_000),
            slots: 1 + random.below(3) as u32,
            grace: random.millis(0, 5_000),
            max_in_flight: *random.pick(&[2, 10, 10_000]),
            janitor: JanitorSettings { every: random.millis(2_000, 20_000), grace: random.millis(0, 60_000) },
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Coordinator,
    Worker,
}

/// The processes that run now, by their place in the cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster(Arc<Mutex<BTreeMap<String, Process>>>);

/// A node, and how to shut it down.
#[derive(Debug, Clone)]
pub struct Process {
    pub node: Node,
    pub shutdown: CancellationToken,
}

impl Cluster {
    /// Starts all processes; they are started again until the runtime ends.
    pub fn start(services: &Services, roles: &Roles, random: &mut Random) -> Self {
        let cluster = Self::default();
        let coordinators = (0..roles.coordinators).map(|i| (format!("c{i}"), Role::Coordinator));
        let workers = (0..roles.workers).map(|i| (format!("w{i}"), Role::Worker));
        for (place, role) in coordinators.chain(workers) {
            let life = life(cluster.clone(), place, role, services.clone(), roles.clone(), random.fork());
            tokio::spawn(life);
        }
        cluster
    }

    /// All processes, in the order of their places.
    pub fn processes(&self) -> Vec<Process> {
        locked(&self.0).values().cloned().collect()
    }
}

/// A place in the cluster: one process after the other.
async fn life(cluster: Cluster, place: String, role: Role, services: Services, roles: Roles, mut random: Random) {
    let time = services.world.time().clone();
    time.sleep(random.millis(0, 2_000)).await;
    for n in 0u32.. {
        let node = Node::new(format!("{place}-{n}"), time.clone());
        let shutdown = CancellationToken::new();
        locked(&cluster.0).insert(place.clone(), Process { node: node.clone(), shutdown: shutdown.clone() });
        services.world.trace(format_args!("{} starts", node.name()));
        let mut task = match role {
            Role::Coordinator => tokio::spawn(coordinator(services.clone(), roles.clone(), node.clone(), shutdown)),
            Role::Worker => tokio::spawn(worker(services.clone(), roles.clone(), node.clone(), shutdown)),
        };
        tokio::select! {
            biased;
            () = node.killed() => {
                task.abort();
                // It was aborted: how it ended is known.
                let _ = task.await;
            }
            ended = &mut task => if let Err(error) = ended {
                services.world.violated(format!("{} panicked: {error}", node.name()));
            },
        }
        // Whatever it left behind can do nothing any more.
        node.kill();
        services.world.trace(format_args!("{} has ended", node.name()));
        let pause = if services.world.is_healed() { random.millis(100, 500) } else { random.millis(100, 8_000) };
        time.sleep(pause).await;
    }
}

async fn coordinator(services: Services, roles: Roles, node: Node, shutdown: CancellationToken) {
    let parts = windrow_coordinator::Parts {
        log: Arc::new(services.log_for(&node)),
        meta: Arc::new(services.meta_for(&node)),
        clock: node.clock(),
        store: services.store_for(&node),
    };
    let settings = windrow_coordinator::Settings {
        id: node.name().to_owned(),
        tick: roles.tick,
        lease_ttl: roles.lease_ttl,
        max_in_flight: roles.max_in_flight,
        janitor: roles.janitor,
    };
    windrow_coordinator::run(parts, settings, shutdown).await;
}

async fn worker(services: Services, roles: Roles, node: Node, shutdown: CancellationToken) {
    let scratch = services.scratch.join(node.name());
    let engine = Engine::new(EngineSettings { memory_bytes: 64 << 20, scratch: scratch.clone() });
    let names = Arc::new(CountedNames { node: node.name().to_owned(), given: Mutex::default() });
    let (log, store) = (Arc::new(services.log_for(&node)), services.store_for(&node));
    let tools = Tools { place: Place::InPlace, names, ..Tools::new(log, store, node.clock(), engine, scratch) };
    let Ok(id) = WorkerId::new(node.name()) else { return };
    let settings = windrow_worker::Settings { id, slots: roles.slots, lease_ttl: roles.lease_ttl, grace: roles.grace };
    let meta = Arc::new(services.meta_for(&node));
    let ended = windrow_worker::run(tools, meta, settings, shutdown).await;
    services.world.trace(format_args!("{} ends {ended:?}", node.name()));
}

/// Attempts named by their node, counted.
#[derive(Debug)]
struct CountedNames {
    node: String,
    given: Mutex<u64>,
}

impl AttemptNames for CountedNames {
    fn next(&self) -> String {
        let mut given = locked(&self.given);
        *given += 1;
        format!("{}-{given}", self.node)
    }
}
