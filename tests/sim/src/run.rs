//! One run: a world from a seed, its workload under its faults, then healed, settled, and judged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use windrow_ports::Log;
use windrow_ports::log::NewTopic;
use windrow_ports::meta::{Compare, MetaStore, Op, Txn};
use windrow_protocol::cut::Cursor;
use windrow_protocol::job::LatePolicy;
use windrow_protocol::plan::Part;
use windrow_protocol::state::{BatchRecord, BatchState, JobRecord, Task, keys};
use windrow_protocol::{JobName, JobSpec, Offset, PartitionId, Timestamp, TopicId, TopicName};

use crate::audit::Audit;
use crate::audit::end::End;
use crate::cluster::{Cluster, Roles, Services};
use crate::disasters::{Disasters, heal};
use crate::faults::{Counts, Profile};
use crate::faulty_store::SimStore;
use crate::log::SimLog;
use crate::meta::SimMeta;
use crate::node::Node;
use crate::random::Random;
use crate::workload::{Habits, Producer, Sent};
use crate::world::World;

/// How long a healed cluster may take until everything is done.
const SETTLES_WITHIN: Duration = Duration::from_secs(1_200);

/// How probable it is that a device comes back with old readings when all is quiet.
const STRAGGLERS: f64 = 0.3;
const STRAGGLES_WITHIN: Duration = Duration::from_secs(60);

/// Of so many runs one is of a healthy cluster.
const HEALTHY_EVERY: u64 = 10;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    pub seed: u64,
    /// Over all steps with their times and outcomes.
    pub hash: u64,
    pub steps: u64,
    pub virtual_time: Duration,
    pub faults: Counts,
    /// Readings that were sent, over all partitions.
    pub readings: u64,
    /// What did not hold; empty if the run was good.
    pub violations: Vec<String>,
    /// The trace, if it was asked for.
    pub lines: Vec<String>,
}

/// What a run is made of, drawn from its seed.
struct Drawn {
    partitions: i32,
    devices: u32,
    jobs: BTreeMap<JobName, JobSpec>,
    roles: Roles,
    workload: Duration,
}

impl Drawn {
    fn new(random: &mut Random) -> Self {
        let partitions = 1 + random.below(3) as i32;
        let mut jobs = BTreeMap::new();
        for (name, reduce) in [("plain", false), ("reduced", true)] {
            if random.chance(0.7) || (reduce && jobs.is_empty()) {
                jobs.extend(JobName::new(name).ok().zip(job(random, reduce)));
            }
        }
        let devices = partitions as u32 * (1 + random.below(3) as u32);
        Self { partitions, devices, jobs, roles: Roles::draw(random), workload: random.millis(50_000, 140_000) }
    }
}

fn job(random: &mut Random, reduce: bool) -> Option<JobSpec> {
    let by_volume = random.chance(0.3);
    let window = if by_volume {
        of_volume(random)
    } else {
        format!(r#"{{"every": "{}"}}"#, random.pick(&["15s", "30s", "60s"]))
    };
    let (lateness, idle) = (random.pick(&["5s", "10s", "20s"]), random.pick(&["5s", "12s", "30s"]));
    let lates = [
        r#""side""#,
        r#""side""#,
        r#""drop""#,
        r#""amend", "amendReach": "45s""#,
        r#""amend", "amendReach": "2m""#,
        r#""amend""#,
    ];
    let (late, attempts) = (random.pick(&lates), random.pick(&[2, 5, 1_000]));
    let lateness = if by_volume { String::new() } else { format!(r#""lateness": "{lateness}", "late": {late}, "#) };
    let reduce = if reduce { r#", "reduce": "SELECT device, seq FROM parts""# } else { "" };
    let json = format!(
        r#"{{"source": {{"topic": "readings", "values": {{"speed": "f64"}}}}, "window": {window},
            {lateness}"idleTimeout": "{idle}", "maxAttempts": {attempts},
            "map": "SELECT device, seq, speed FROM readings"{reduce}}}"#
    );
    let mut spec: JobSpec = serde_json::from_str(&json).ok()?;
    spec.output.retention = random.pick(&[None, None, Some("30s"), Some("2m")]).and_then(|text| text.parse().ok());
    // Windows that may still be amended must be kept.
    if spec.late == LatePolicy::Amend && spec.output.retention.is_some_and(|kept| kept < spec.late_rule().reach) {
        spec.output.retention = None;
    }
    Some(spec)
}

/// Cuts by volume instead of by time.
fn of_volume(random: &mut Random) -> String {
    let amount = random.pick(&[r#""readings": 10"#, r#""readings": 60"#, r#""bytes": 300"#, r#""bytes": "2KiB""#]);
    let within = random.pick(&["", "", r#", "within": "8s""#, r#", "within": "40s""#]);
    format!(r#"{{"every": "volume", {amount}{within}}}"#)
}

/// A window of volume that nothing ends stays open, and its batch with it.
fn stays_open(batch: &BatchRecord) -> bool {
    let Task::Map(plan) = &batch.task else { return false };
    let has_no_time = plan.volume().is_some_and(|cut| cut.until.within.is_none());
    has_no_time && batch.state == BatchState::Pending && batch.waits_for_readings()
}

/// Up to where a partition's open window has been looked at.
fn open_through(batches: &[(BatchRecord, i64)], partition: PartitionId) -> Option<Offset> {
    let open = batches.iter().find(|(batch, _)| stays_open(batch) && batch.id.part == Part::Partition(partition));
    open.and_then(|(batch, _)| batch.waiting).map(|waiting| waiting.seen.through)
}

/// Runs a seed.
pub fn run(seed: u64, keep_lines: bool) -> Report {
    let mut random = Random::new(seed);
    let profile =
        if seed.is_multiple_of(HEALTHY_EVERY) { Profile::healthy() } else { Profile::draw(&mut random.fork()) };
    let world = World::new(profile, random.fork(), keep_lines);
    let inner = world.clone();
    let readings = world.time().run(async move { play(inner, random).await });
    let (hash, steps, lines) = world.traced();
    let (virtual_time, faults, violations) = (world.time().now(), world.counts(), world.violations());
    Report { seed, hash, steps, virtual_time, faults, readings, violations, lines }
}

async fn play(world: World, mut random: Random) -> u64 {
    let folder = match tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()) {
        Ok(folder) => folder,
        Err(error) => {
            world.violated(format!("no scratch folder: {error}"));
            return 0;
        }
    };
    let drawn = Drawn::new(&mut random);
    let log = SimLog::new(world.time().clone());
    let audit = Audit::new(world.clone(), log.clone(), drawn.jobs.clone());
    let (on_meta, on_store) = (audit.clone(), audit.clone());
    // The store's own clock is nobody's.
    let keeper = Node::new("meta", world.time().clone());
    let meta = SimMeta::new(keeper.clock(), Box::new(move |events| on_meta.meta_changed(events)));
    let store = Arc::new(SimStore::new(Box::new(move |change| on_store.store_changed(change))));
    let services = Services { world: world.clone(), log, meta, store, scratch: folder.path().to_owned() };
    let play = Play { services, drawn, audit, sent: Sent::default() };
    let course = play.course(random);
    tokio::select! {
        biased;
        () = world.broken() => {}
        () = course => {}
    }
    play.sent.readings()
}

struct Play {
    services: Services,
    drawn: Drawn,
    audit: Audit,
    sent: Sent,
}

impl Play {
    async fn course(&self, mut random: Random) {
        let Some((topic, topic_id)) = self.prepare().await else {
            return self.services.world.violated("the topic and the jobs could not be made".to_owned());
        };
        let world = &self.services.world;
        let cluster = Cluster::start(&self.services, &self.drawn.roles, &mut random);
        let producers: Vec<_> =
            (0..self.drawn.partitions).map(|p| self.producer(&topic, PartitionId(p), &mut random)).collect();
        let (services, cluster_too) = (self.services.clone(), cluster.clone());
        let disasters = Disasters { services, cluster: cluster_too, topic: topic.clone(), random: random.fork() };
        tokio::spawn(disasters.run());
        futures::future::join_all(producers.into_iter().map(Producer::run)).await;
        world.time().sleep_until(self.drawn.workload).await;
        heal(&self.services, &cluster);
        world.trace(format_args!("healed"));
        let stragglers = self.settle(&topic, &topic_id).await && random.chance(STRAGGLERS);
        if stragglers {
            let partition = PartitionId(random.below(self.drawn.partitions as u64) as i32);
            let until = world.time().now() + STRAGGLES_WITHIN;
            Producer { until, ..self.producer(&topic, partition, &mut random) }.straggle().await;
            self.settle(&topic, &topic_id).await;
        }
        let anew = self.services.log.topic(&topic).await.is_ok_and(|info| info.id != topic_id);
        self.audit.end(&End {
            sent: &self.sent,
            topic_id,
            partitions: self.drawn.partitions,
            scratch: &self.services.scratch,
            is_cut_short: anew,
        });
    }

    /// Waits until all that was published is where it belongs; whether that came to be.
    async fn settle(&self, topic: &TopicName, topic_id: &TopicId) -> bool {
        let world = &self.services.world;
        let deadline = world.time().now() + SETTLES_WITHIN;
        loop {
            match self.unsettled(topic, topic_id).await {
                None => return true,
                Some(what) if world.time().now() > deadline => {
                    world.violated(format!("the healed cluster does not settle: {what}"));
                    return false;
                }
                Some(_) => world.time().sleep(Duration::from_secs(2)).await,
            }
        }
    }

    async fn prepare(&self) -> Option<(TopicName, TopicId)> {
        let name = TopicName::new("readings").ok()?;
        let new = NewTopic {
            name: name.clone(),
            partitions: self.drawn.partitions,
            replication: 1,
            retention_ms: None,
            max_ahead_ms: None,
        };
        self.services.log.create_topic(&new).await.ok()?;
        for (name, spec) in &self.drawn.jobs {
            let record = JobRecord::new(name.clone(), spec.clone(), Timestamp::default());
            let then = vec![
                Op::put(keys::job(name), serde_json::to_vec(&record).ok()?),
                Op::put(keys::spec(name, &spec.hash()), serde_json::to_vec(spec).ok()?),
            ];
            self.services.meta.txn(Txn { when: vec![], then }).await.ok()?;
        }
        let id = self.services.log.topic(&name).await.ok()?.id;
        Some((name, id))
    }

    fn producer(&self, topic: &TopicName, partition: PartitionId, random: &mut Random) -> Producer {
        let node = Node::new(format!("gateway-{partition}"), self.services.world.time().clone());
        let by_time = self.drawn.jobs.values().filter(|spec| spec.window.volume().is_none());
        let lateness_us = by_time.map(|spec| spec.lateness.micros()).max().unwrap_or(10_000_000);
        let devices = (0..self.drawn.devices).filter(|d| *d as i32 % self.drawn.partitions == partition.0);
        let mut log = self.services.log_for(&node);
        log.link.may_crash = false;
        Producer {
            log,
            topic: topic.clone(),
            partition,
            devices: devices.map(|device| (device, 0)).collect(),
            habits: Habits::draw(random, lateness_us),
            random: random.fork(),
            sent: self.sent.clone(),
            until: self.drawn.workload,
        }
    }

    /// What is not done yet; also does what an operator does: looks at what is parked, and has it tried again.
    async fn unsettled(&self, topic: &TopicName, topic_id: &TopicId) -> Option<String> {
        let anew = self.services.log.topic(topic).await.is_ok_and(|info| info.id != *topic_id);
        for job in self.drawn.jobs.keys() {
            // Wishes before and after: some become batches meanwhile, others come of them.
            let mut wishes = self.wishes(job).await;
            let batches = self.batches(job).await;
            wishes += self.wishes(job).await;
            if anew {
                // Nothing will ever come of what is parked, unless its marker stands; the job must say why.
                let waits = |batch: &BatchRecord| match batch.state {
                    BatchState::Assigned { .. } => true,
                    BatchState::Pending | BatchState::Failed => self.audit.has_marker(&batch.id),
                    BatchState::Committed(_) => false,
                };
                if let Some((batch, revision)) = batches.iter().find(|(batch, _)| waits(batch)) {
                    if batch.state == BatchState::Failed {
                        self.retry(batch, *revision).await;
                    }
                    return Some(format!("{} is {:?}", batch.id, batch.state));
                }
                let told = self.services.meta.get(&keys::problem(job)).await.ok().flatten().is_some();
                let begun = self.cursor(job, PartitionId(0)).await.is_some_and(|c| c.topic_id == *topic_id);
                if begun && !told {
                    return Some(format!("{job} does not say that its topic was made anew"));
                }
                continue;
            }
            for (batch, revision) in &batches {
                if batch.state == BatchState::Failed {
                    self.retry(batch, *revision).await;
                }
            }
            let mut left = batches.iter().filter(|(batch, _)| !stays_open(batch));
            if let Some((batch, _)) = left.next() {
                return Some(format!("{} is {:?}: {:?}", batch.id, batch.state, batch.last_error));
            }
            if wishes > 0 {
                return Some(format!("{job} has windows to run again"));
            }
            if let Some(overdue) = self.audit.overdue(job) {
                return Some(overdue);
            }
            for partition in (0..self.drawn.partitions).map(PartitionId) {
                let Some((end, newest)) = self.services.log.history(topic_id, partition, |history| {
                    let newest = history.records.iter().map(|record| record.timestamp).max();
                    (history.records.len() as i64, newest)
                }) else {
                    continue;
                };
                let cursor = self.cursor(job, partition).await;
                // Where no record is left to read, retention may have taken the newest ones: their loss is reported.
                let read = open_through(&batches, partition);
                let cut = |cursor: &Cursor, newest| {
                    let by_time = cursor.pace.is_none() && cursor.sealed_through > newest;
                    read.unwrap_or(cursor.end).0 == end && (by_time || cursor.next_start == cursor.end)
                };
                if newest.is_some_and(|newest| cursor.as_ref().is_none_or(|cursor| !cut(cursor, newest))) {
                    return Some(format!("{job}/{partition} is cut up to {cursor:?} of {end}, {newest:?}"));
                }
            }
        }
        None
    }

    async fn batches(&self, job: &JobName) -> Vec<(BatchRecord, i64)> {
        let Ok(listing) = self.services.meta.list(&keys::batches(job)).await else { return Vec::new() };
        let parsed = listing.items.iter().map(|item| (serde_json::from_slice(&item.value), item.mod_revision));
        parsed.filter_map(|(batch, revision)| Some((batch.ok()?, revision))).collect()
    }

    /// How many wishes a job has.
    async fn wishes(&self, job: &JobName) -> usize {
        self.services.meta.list(&keys::wishes(job)).await.map_or(0, |listing| listing.items.len())
    }

    async fn cursor(&self, job: &JobName, partition: PartitionId) -> Option<Cursor> {
        let item = self.services.meta.get(&keys::cursor(job, partition)).await.ok().flatten()?;
        serde_json::from_slice(&item.value).ok()
    }

    /// As `windrow retry` does.
    async fn retry(&self, batch: &BatchRecord, revision: i64) {
        self.services.world.trace(format_args!("retry {} after {:?}", batch.id, batch.last_error));
        let again = BatchRecord { state: BatchState::Pending, failures: 0, not_before: None, ..batch.clone() };
        let key = keys::batch(&batch.id.job, batch.id.window, batch.id.part);
        let when = vec![Compare::Modified(key.clone(), revision)];
        let Ok(value) = serde_json::to_vec(&again) else { return };
        // If something else happened to it meanwhile, it is seen the next time.
        let _ = self.services.meta.txn(Txn { when, then: vec![Op::put(key, value)] }).await;
    }
}
