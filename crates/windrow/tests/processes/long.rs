//! Hundreds of faults on a cluster with replicas, one after the other and into each other; then every acknowledged reading
//! is in one place, once.
//!
//! ```text
//! WINDROW_FAULTS=500 [WINDROW_SEED=1] cargo xtask test --test processes -- --ignored --nocapture long
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt64Type};
use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_ports::MetaStore;
use windrow_processing::parquet;
use windrow_protocol::JobName;
use windrow_protocol::paths::{self, Dataset};

use crate::cluster::Cluster;
use crate::deployment::{BLOCKS, DEVICES, Deployment, PER_HOUR, Process, free_port, hour_start};

/// How long the cluster may take to do all that is left once nothing fails any more.
const SETTLES_WITHIN: Duration = Duration::from_secs(900);

/// How long three JVMs and all else may take to start.
const STARTS_WITHIN: Duration = Duration::from_secs(300);

/// A role's lease is 3 s: a pause beyond it.
const PAUSE: std::ops::Range<u64> = 3_500..6_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillCoordinator,
    KillGateway,
    KillWorker,
    PauseCoordinator,
    PauseGateway,
    PauseWorker,
    RestartBroker,
    RestartEtcd,
    RestartStore,
    CutBroker,
    CutEtcd,
    CutStore,
    CompactEtcd,
    FillDisk,
}

/// By how often they are drawn.
const FAULTS: [(Fault, usize); 14] = [
    (Fault::KillWorker, 8),
    (Fault::KillCoordinator, 6),
    (Fault::KillGateway, 4),
    (Fault::PauseWorker, 6),
    (Fault::PauseCoordinator, 4),
    (Fault::PauseGateway, 2),
    (Fault::RestartBroker, 2),
    (Fault::RestartEtcd, 3),
    (Fault::RestartStore, 2),
    (Fault::CutBroker, 3),
    (Fault::CutEtcd, 3),
    (Fault::CutStore, 3),
    (Fault::CompactEtcd, 2),
    (Fault::FillDisk, 2),
];

fn millis(range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(range))
}

/// A worker's scratch folder on a disk of its own, small enough to be filled; none where nobody may mount one.
struct Disk(PathBuf);

impl Disk {
    fn mount() -> Option<Self> {
        let at = tempfile::tempdir().unwrap().keep();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&at);
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        // Ends with the error that others shall meet.
        let _ = std::fs::write(self.filler(), vec![0; 64 << 20]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// What a fault has to undo, and until when its place is left alone.
enum Undo {
    Resume(Place, usize),
    Start(String),
    Open(String),
    Clear,
    /// Replicas need a while until the next one may go.
    Rested(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Coordinator,
    Gateway,
    Worker,
}

struct Fleet {
    deployment: Arc<Deployment>,
    cluster: Cluster,
    servers: [u16; 2],
    gates: [u16; 2],
    disk: Option<Disk>,
    roles: BTreeMap<(Place, usize), Process>,
    later: Vec<(Instant, Undo)>,
}

impl Fleet {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let deployment = Arc::new(Deployment::new(cluster.services.clone()));
        let (servers, gates) = ([free_port(), free_port()], [free_port(), free_port()]);
        let disk = Disk::mount();
        let mut fleet = Self { deployment, cluster, servers, gates, disk, roles: BTreeMap::new(), later: Vec::new() };
        for (place, n) in [(Place::Coordinator, 2), (Place::Gateway, 2), (Place::Worker, 3)] {
            (0..n).for_each(|i| fleet.launch(place, i));
        }
        fleet
    }

    async fn is_up(&self) {
        let began = Instant::now();
        while self.deployment.readiness(self.gates[0]).await != Some(200) {
            assert!(began.elapsed() < STARTS_WITHIN, "the cluster is up in time: {}", self.deployment.logs());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn launch(&mut self, place: Place, i: usize) {
        let process = match (place, &self.disk) {
            (Place::Coordinator, _) => self.deployment.coordinator(self.servers[i]),
            (Place::Gateway, _) => self.deployment.gateway(self.gates[i]),
            (Place::Worker, Some(disk)) if i == 0 => {
                self.deployment.worker_with(&["--slots", "2", "--scratch", disk.0.join("worker").to_str().unwrap()])
            }
            (Place::Worker, _) => self.deployment.worker(),
        };
        self.roles.insert((place, i), process);
    }

    fn after(&mut self, pause: Duration, undo: Undo) {
        self.later.push((Instant::now() + pause, undo));
    }

    /// A role that nothing is wrong with now.
    fn a_role(&self, of: Place) -> Option<usize> {
        let paused = |i: usize| {
            self.later.iter().any(|(_, undo)| matches!(undo, Undo::Resume(place, other) if (*place, *other) == (of, i)))
        };
        let free: Vec<usize> =
            self.roles.keys().filter(|(place, i)| *place == of && !paused(*i)).map(|(_, i)| *i).collect();
        fastrand::choice(free)
    }

    /// A server whose kind nothing is wrong with now.
    fn a_server(&self, kind: &str) -> Option<String> {
        let is_hurt = self.later.iter().any(|(_, undo)| match undo {
            Undo::Start(name) | Undo::Open(name) | Undo::Rested(name) => name.starts_with(kind),
            Undo::Resume(..) | Undo::Clear => false,
        });
        let names = self.cluster.servers.keys().filter(|name| name.starts_with(kind) && !is_hurt);
        fastrand::choice(names.cloned().collect::<Vec<_>>())
    }

    fn kill(&mut self, place: Place) -> bool {
        let Some(i) = self.a_role(place) else { return false };
        if let Some(process) = self.roles.get_mut(&(place, i)) {
            assert!(process.is_running(), "{place:?} {i} had ended: {}", process.log());
            process.kill();
        }
        self.launch(place, i);
        true
    }

    fn pause(&mut self, place: Place) -> bool {
        let Some(i) = self.a_role(place) else { return false };
        self.roles[&(place, i)].signal("STOP");
        self.after(millis(PAUSE), Undo::Resume(place, i));
        true
    }

    fn restart(&mut self, kind: &str) -> bool {
        let Some(name) = self.a_server(kind) else { return false };
        self.cluster.servers.get_mut(&name).unwrap().kill();
        self.after(millis(0..3_000), Undo::Start(name));
        true
    }

    async fn cut(&mut self, kind: &str) -> bool {
        let Some(name) = self.a_server(kind) else { return false };
        self.cluster.ways.get_mut(&name).unwrap().cut().await;
        self.after(millis(500..6_000), Undo::Open(name));
        true
    }

    /// Whether it could happen now.
    async fn strike(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::KillCoordinator => self.kill(Place::Coordinator),
            Fault::KillGateway => self.kill(Place::Gateway),
            Fault::KillWorker => self.kill(Place::Worker),
            Fault::PauseCoordinator => self.pause(Place::Coordinator),
            Fault::PauseGateway => self.pause(Place::Gateway),
            Fault::PauseWorker => self.pause(Place::Worker),
            Fault::RestartBroker => self.restart("kafka"),
            Fault::RestartEtcd => self.restart("etcd"),
            Fault::RestartStore => self.restart("s3"),
            Fault::CutBroker => self.cut("kafka").await,
            Fault::CutEtcd => self.cut("etcd").await,
            Fault::CutStore => self.cut("s3").await,
            Fault::CompactEtcd => self.compact().await,
            Fault::FillDisk => {
                let is_full = self.later.iter().any(|(_, undo)| matches!(undo, Undo::Clear));
                let Some(disk) = self.disk.as_ref().filter(|_| !is_full) else { return false };
                disk.fill();
                self.after(millis(2_000..5_000), Undo::Clear);
                true
            }
        }
    }

    /// Compacts all of etcd's history; false while it does not answer.
    async fn compact(&self) -> bool {
        let compacted = async {
            let meta = EtcdStore::connect(&EtcdSettings::new(self.cluster.etcd.clone())).await?;
            let now = meta.list("/").await?.revision;
            meta.compact(now).await
        };
        compacted.await.is_ok()
    }

    /// Undoes what is due; all of it, if `all`.
    async fn undo(&mut self, all: bool) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| all || *at <= now);
        self.later = later;
        for (_, undo) in due {
            match undo {
                Undo::Resume(place, i) => self.roles[&(place, i)].signal("CONT"),
                Undo::Start(name) => {
                    self.cluster.servers.get_mut(&name).unwrap().start();
                    let rest = if name.starts_with("kafka") { 15 } else { 5 };
                    self.after(Duration::from_secs(rest), Undo::Rested(name));
                }
                Undo::Open(name) => self.cluster.ways.get_mut(&name).unwrap().open().await,
                Undo::Clear => {
                    let _ = self.disk.as_ref().map(|disk| std::fs::remove_file(disk.filler()));
                }
                Undo::Rested(_) => {}
            }
        }
    }
}

/// Sends hour after hour until told to stop; the hours that were acknowledged.
async fn ingest(deployment: Arc<Deployment>, gates: [u16; 2], stop: Arc<AtomicBool>) -> u64 {
    let mut hour = 0;
    while !stop.load(Ordering::SeqCst) {
        let lines = Deployment::lines(hour, PER_HOUR);
        let tries = gates.iter().cycle().skip(hour as usize % 2);
        for gate in tries {
            let answer = deployment.offer(*gate, &lines).await;
            if answer.is_ok_and(|answer| answer.contains(&format!("\"accepted\":{}", lines.len()))) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        hour += 1;
        tokio::time::sleep(Duration::from_millis(1_000)).await;
    }
    hour
}

/// How often each reading is in a job's results and late sets, by device and number.
async fn found(deployment: &Deployment, job: &str) -> HashMap<(String, u64), u32> {
    let (store, job) = (deployment.store(), JobName::new(job).unwrap());
    let (local, mut found) = (tempfile::NamedTempFile::new().unwrap(), HashMap::new());
    for dataset in [Dataset::Data, Dataset::Late] {
        for object in store.list(&paths::dataset(&job, dataset)).await.unwrap() {
            store.download(&object.path, local.path()).await.unwrap();
            for batch in parquet::read(local.path()).unwrap().map(Result::unwrap) {
                let column = |name: &str, kind: &DataType| cast(batch.column_by_name(name).unwrap(), kind).unwrap();
                let (devices, seqs) = (column("device", &DataType::Utf8), column("seq", &DataType::UInt64));
                let (devices, seqs) = (devices.as_string::<i32>(), seqs.as_primitive::<UInt64Type>());
                for row in 0..batch.num_rows() {
                    *found.entry((devices.value(row).to_owned(), seqs.value(row))).or_default() += 1;
                }
            }
        }
    }
    found
}

#[ignore = "takes half an hour: WINDROW_FAULTS=500 cargo xtask test --test processes -- --ignored --nocapture long"]
#[tokio::test(flavor = "multi_thread")]
async fn long_whatever_fails_every_acknowledged_reading_is_in_one_place_once() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (wanted, seed) = (number("WINDROW_FAULTS").unwrap_or(100), number("WINDROW_SEED").unwrap_or(1));
    fastrand::seed(seed);
    let mut fleet = Fleet::start().await;
    if fleet.disk.is_none() {
        println!("no disk can be mounted here: full disks are SKIPPED");
    }
    let (deployment, servers, gates) = (fleet.deployment.clone(), fleet.servers, fleet.gates);
    let (joined, rows) = (deployment.job.clone(), format!("rows-{}", deployment.job));
    let window = "window: {every: 1h}\n  lateness: 10m\n  maxAttempts: 1000";
    let of_rows = deployment.job_file_with(&rows, BLOCKS, window, "60s", "SELECT device, seq FROM readings");
    let of_sums = deployment.job_file_with(
        &joined,
        BLOCKS,
        window,
        "60s",
        "SELECT device, count(*) AS n FROM readings GROUP BY device\n  reduce: SELECT sum(n) AS n FROM parts",
    );
    fleet.is_up().await;
    let stop = Arc::new(AtomicBool::new(false));
    let ingest = tokio::spawn(ingest(deployment.clone(), gates, stop.clone()));
    for file in [&of_rows, &of_sums] {
        deployment.run(&["apply", "-f", file.to_str().unwrap()], servers).await;
    }

    let drawn: Vec<Fault> = FAULTS.iter().flat_map(|(fault, n)| std::iter::repeat_n(*fault, *n)).collect();
    let (began, mut counts) = (Instant::now(), BTreeMap::<Fault, u64>::new());
    while counts.values().sum::<u64>() < wanted {
        tokio::time::sleep(millis(200..2_500)).await;
        fleet.undo(false).await;
        let fault = fastrand::choice(&drawn).copied().unwrap();
        if fleet.strike(fault).await {
            *counts.entry(fault).or_default() += 1;
            let n: u64 = counts.values().sum();
            if n.is_multiple_of(25) {
                println!("{n} faults in {} s", began.elapsed().as_secs());
            }
        }
    }
    // Started servers have to rest: so twice.
    fleet.undo(true).await;
    fleet.undo(true).await;
    stop.store(true, Ordering::SeqCst);
    let hours = ingest.await.unwrap();
    println!(
        "{counts:?}: {wanted} faults in {} s, {hours} hours acknowledged (seed {seed})",
        began.elapsed().as_secs()
    );

    // Silence closes the last hour.
    let (end, deadline) = (hour_start(hours).to_string(), Instant::now() + SETTLES_WITHIN);
    for job in [&rows, &joined] {
        let left = deadline.saturating_duration_since(Instant::now()).as_secs();
        deployment.run(&["wait", job, "--until", &end, "--timeout", &format!("{left}s")], servers).await;
    }
    let expected = hours * PER_HOUR * DEVICES;
    for job in [&rows, &joined] {
        let report = deployment.verify(job, servers).await;
        assert_eq!(report["clean"], true, "{report}");
        println!("{job}: {}", report["ledger"]);
    }
    let found = found(&deployment, &rows).await;
    let sent: BTreeSet<(String, u64)> =
        (0..DEVICES).flat_map(|d| (0..hours * PER_HOUR).map(move |seq| (format!("d{d}"), seq))).collect();
    let lost = sent.iter().filter(|key| !found.contains_key(*key)).count();
    let twice = found.values().filter(|n| **n > 1).count();
    let beyond = found.keys().filter(|key| !sent.contains(*key)).count();
    println!("{expected} acknowledged, {} found, {lost} lost, {twice} twice, {beyond} that nobody sent", found.len());
    assert_eq!((lost, twice, beyond), (0, 0, 0));
    let report = deployment.verify(&joined, servers).await;
    let late = report["ledger"]["late"].as_u64().unwrap();
    assert_eq!(deployment.counted().await.values().sum::<i64>() as u64 + late, expected, "the sums, and what was late");
}
