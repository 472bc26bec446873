//! A coordinator, or a worker, dies at one call after the other, before it or after it, while another one stands by:
//! whatever the point, every reading is counted once.
//!
//! Every point takes a run of its own. The test takes every `STRIDE`-th; `WINDROW_CRASH_STRIDE=1` takes all.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use windrow_coordinator::Parts;
use windrow_ports::{Log, MetaStore};
use windrow_processing::{Engine, EngineSettings};
use windrow_protocol::duration::Length;
use windrow_protocol::state::keys;
use windrow_protocol::{JobSpec, WorkerId};
use windrow_storage::Store;
use windrow_worker::Tools;

use crate::cluster::{Cluster, PATIENCE, spec};
use crate::mortal::{Life, Mortal, Point};

/// Of the points the test takes one in so many.
const STRIDE: usize = 11;

/// Of calls that are made again and again (a look each 20 ms) so many are points.
const OF_A_KIND: usize = 3;

/// Runs beside each other; each waits for its disk and its clock most of the time.
const AT_ONCE: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Coordinator,
    Worker,
}

/// The two roles over parts that end with the life.
fn mortal(cluster: &Cluster, life: &Arc<Life>) -> (Arc<dyn Log>, Arc<dyn MetaStore>, Store) {
    let folder = cluster.folder.path().join("store");
    let files: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap());
    let store = Mortal { inner: files, life: life.clone() };
    let log: Arc<dyn Log> = cluster.db.log();
    let meta: Arc<dyn MetaStore> = cluster.db.meta();
    (
        Arc::new(Mortal { inner: log, life: life.clone() }),
        Arc::new(Mortal { inner: meta, life: life.clone() }),
        // The address that the other worker's store has.
        Store::new(cluster.store.url(), Arc::new(store)),
    )
}

fn start(cluster: &Cluster, role: Role, life: &Arc<Life>) -> tokio::task::JoinHandle<()> {
    let (log, meta, store) = mortal(cluster, life);
    let stop = tokio_util::sync::CancellationToken::new();
    match role {
        Role::Coordinator => {
            let parts = Parts { log, meta, clock: Cluster::clock(), store };
            let settings = windrow_coordinator::Settings {
                id: "mortal".to_owned(),
                tick: Duration::from_millis(20),
                ..windrow_coordinator::Settings::default()
            };
            tokio::spawn(windrow_coordinator::run(parts, settings, stop))
        }
        Role::Worker => {
            let scratch = cluster.folder.path().join("scratch-mortal");
            let engine = Engine::new(EngineSettings { memory_bytes: 64 << 20, scratch: scratch.clone() });
            let tools = Tools::new(log, store, Cluster::clock(), engine, scratch);
            let id = WorkerId::new("mortal").unwrap();
            let (lease_ttl, grace) = (Duration::from_secs(10), Duration::ZERO);
            let settings = windrow_worker::Settings { id, slots: 2, lease_ttl, grace };
            tokio::spawn(async move { drop(windrow_worker::run(tools, meta, settings, stop).await) })
        }
    }
}

/// One run in which a role dies at a call, or lives on; its life.
async fn lives(role: Role, ends_at: Option<Point>) -> Arc<Life> {
    let point = ends_at.as_ref().map(Point::to_string);
    let cluster = Cluster::new(2).await;
    // The last one closes three hours; none waits for a silence.
    for (minute, seq) in [(0, 0), (30, 1), (75, 2), (40, 3), (80, 4), (200, 5)] {
        cluster.write(0, "a", minute, seq).await;
        cluster.write(1, "b", minute, seq).await;
    }
    cluster.apply(JobSpec { idle_timeout: Length::from_secs(3_600), ..spec("") }).await;
    let life = Life::new(ends_at);
    let mortal = start(&cluster, role, &life);
    // The mortal one is there first, so that it has the work.
    let is_there = match role {
        Role::Coordinator => keys::LEADER.to_owned(),
        Role::Worker => keys::worker(&WorkerId::new("mortal").unwrap()),
    };
    let there = async {
        while cluster.db.meta().get(&is_there).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let there = async { tokio::time::timeout(PATIENCE, there).await.expect("the role is there in time") };
    let died = tokio::select! {
        () = life.end() => true,
        () = there => false,
    };
    let _others = (
        (role == Role::Worker).then(|| cluster.coordinator("c")),
        (role == Role::Coordinator).then(|| cluster.worker("w", Duration::ZERO)),
    );
    if !died {
        tokio::select! {
            biased;
            () = life.end() => {}
            _ = cluster.complete(4) => {}
        }
    }
    mortal.abort();
    let _ended = mortal.await;
    for lease in life.leases() {
        // It may have expired, or have been given up.
        let _ = cluster.db.meta().revoke(lease).await;
    }
    let _successor = match role {
        Role::Coordinator => cluster.coordinator("successor"),
        Role::Worker => cluster.worker("successor", Duration::ZERO),
    };
    cluster.complete(4).await;
    let (ledger, _) = cluster.ledger(false).await;
    // Two partitions; the block of minute 40 comes after the first hour was sealed.
    assert_eq!((ledger.kept, ledger.late), (80, 20), "{point:?}");
    assert_eq!(cluster.counts().await.values().sum::<i64>(), 80, "{point:?}");
    life
}

async fn dies_everywhere(role: Role) {
    let stride = std::env::var("WINDROW_CRASH_STRIDE").map_or(STRIDE, |text| text.parse().unwrap());
    let calls = lives(role, None).await.calls();
    let points = calls.into_iter().flat_map(|(call, times)| {
        let each = (1..=times.min(OF_A_KIND)).flat_map(|nth| [(nth, false), (nth, true)]);
        each.map(move |(nth, after)| Point { call: call.clone(), nth, after }).collect::<Vec<_>>()
    });
    let points: Vec<Point> = points.collect();
    let runs = points.iter().step_by(stride).map(|point| async move {
        let died = lives(role, Some(point.clone())).await.is_over();
        // What is called is not quite the same in each run: two parts of it race.
        println!("{role:?} {}{point}", if died { "" } else { "has not come " });
        usize::from(died)
    });
    let runs: Vec<usize> = futures::stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
    let (tried, died) = (runs.len(), runs.iter().sum::<usize>());
    println!("{role:?}: {} points, {tried} tried, at {died} of them it died", points.len());
    assert!(points.len() >= 30 && died * 3 > tried * 2, "{died} of {tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_may_die_at_any_call() {
    dies_everywhere(Role::Coordinator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_die_at_any_call() {
    dies_everywhere(Role::Worker).await;
}
