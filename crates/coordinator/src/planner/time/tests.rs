use std::sync::atomic::Ordering;

use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::plan::Part;
use windrow_protocol::state::{BatchRecord, JobRecord, Progress, Task};
use windrow_protocol::{JobName, JobSpec, TopicName};

use super::*;
use crate::Parts;
use crate::fixture::{self, Call, Deaf};
use crate::planner::Cursors;
use crate::view::Versioned;

const P0: PartitionId = PartitionId(0);
const P1: PartitionId = PartitionId(1);

const DAY_US: i64 = 86_400_000_000;

/// A batch as it was planned: hour, first and last offset to read, first offset that it owns.
type Planned = (i64, i64, i64, i64);

/// A job over some partitions, and what is stored of it.
struct Bench {
    parts: Parts,
    log: std::sync::Arc<Deaf>,
    job: JobRecord,
    cursors: Cursors,
    progress: Option<Progress>,
    /// Batches in flight, of which one is the most.
    in_flight: InFlight,
    /// Writes that put the progress anew.
    progress_put: usize,
    /// How long partitions have been silent.
    silent: Silent,
    silence: Silence,
    _folder: tempfile::TempDir,
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

fn minute(minute: i64) -> Timestamp {
    Timestamp::from_millis(minute * 60_000)
}

fn hour(hour: i64) -> Timestamp {
    minute(hour * 60)
}

const IDLE_S: i64 = 3_600;

impl Bench {
    /// Partitions without a record. `spec`: source and window.
    async fn new(partitions: i32, spec: &str) -> Self {
        let (folder, mut parts) = fixture::parts();
        let log = Deaf::new(parts.log.clone());
        parts.log = log.clone();
        let new = NewTopic { name: topic(), partitions, replication: 1, retention_ms: None, max_ahead_ms: None };
        parts.log.create_topic(&new).await.unwrap();
        let spec = format!(r#"{{{spec}, "idleTimeout": "1h", "map": "SELECT 1"}}"#);
        let spec: JobSpec = serde_json::from_str(&spec).unwrap();
        let job = JobRecord::new(JobName::new("j").unwrap(), spec, Timestamp::MIN);
        let (cursors, progress, in_flight, progress_put, silent, silence) = Default::default();
        Self { parts, log, job, cursors, progress, in_flight, progress_put, silent, silence, _folder: folder }
    }

    /// With windows of an hour that wait two hours for their readings.
    async fn hourly(partitions: i32) -> Self {
        Self::new(partitions, r#""source": {"topic": "t"}, "window": {"every": "1h"}, "lateness": "2h""#).await
    }

    async fn append(&self, partition: PartitionId, times: &[Timestamp]) {
        let record = |timestamp: &Timestamp| Append { timestamp: *timestamp, key: None, payload: "x".into() };
        self.parts.log.append(&topic(), partition, times.iter().map(record).collect()).await.unwrap();
    }

    fn silent_for(&mut self, partition: PartitionId, seconds: i64) {
        self.silent.insert(partition, Length::from_secs(seconds));
    }

    /// One step, with what it writes taken in; what it plans of each partition.
    async fn step(&mut self) -> Option<Vec<(PartitionId, Planned)>> {
        let site = Site {
            parts: &self.parts,
            job: &self.job,
            topic: self.parts.log.topic(&topic()).await.unwrap(),
            cursors: self.cursors.clone(),
            progress: self.progress.clone().map(|value| Versioned { value, revision: 7 }),
            in_flight: self.in_flight,
            max_in_flight: 1,
        };
        let (ends, _) = site.look_at_ends(&mut Silence::default()).await.unwrap();
        let calendar = self.job.spec.window.calendar().unwrap();
        let planner = TimePlanner { site: &site, calendar, pinned: BTreeMap::new() };
        let writes = planner.writes(&ends, &self.silent, &mut self.silence).await.unwrap();
        if writes.is_empty() {
            return None;
        }
        let mut planned = Vec::new();
        for op in writes.into_iter().flat_map(|write| write.then) {
            let Op::Put { key, value, .. } = op else { panic!("{op:?}") };
            match key.strip_prefix(&keys::cursors(&self.job.name)) {
                Some(partition) => {
                    let cursor = Versioned { value: serde_json::from_slice(&value).unwrap(), revision: 1 };
                    self.cursors.insert(PartitionId(partition.parse().unwrap()), cursor);
                }
                None if key == keys::progress(&self.job.name) => self.progress_put += 1,
                None => planned.push(of_batch(&serde_json::from_slice(&value).unwrap())),
            }
        }
        Some(planned)
    }

    /// Steps until there is nothing to do; what is planned of a partition.
    async fn cut(&mut self, partition: PartitionId) -> Vec<Planned> {
        let mut planned = Vec::new();
        for _ in 0..100 {
            let Some(more) = self.step().await else { return planned };
            planned.extend(more.into_iter().filter(|(of, _)| *of == partition).map(|(_, planned)| planned));
        }
        panic!("it is cut on and on, at {:?}", self.cursors)
    }

    fn through(&self, partition: PartitionId) -> Timestamp {
        self.cursors[&partition].value.sealed_through
    }

    fn begin_at(&mut self, partition: PartitionId, sealed_through: Timestamp) {
        let (end, next_start) = Default::default();
        let topic_id = windrow_protocol::TopicId::new("i").unwrap();
        let value = Cursor { topic_id, sealed_through, end, next_start, pace: None };
        self.cursors.insert(partition, Versioned { value, revision: 1 });
    }
}

fn of_batch(batch: &BatchRecord) -> (PartitionId, Planned) {
    let Task::Map(plan) = &batch.task else { panic!("a map") };
    assert_eq!((batch.id.part, plan.read.end), (Part::Partition(plan.partition), plan.owned.end));
    let hour = plan.window.start.micros().div_euclid(3_600_000_000);
    (plan.partition, (hour, plan.read.start.0, plan.read.end.0, plan.owned.start.0))
}

#[tokio::test]
async fn a_window_reads_all_that_may_hold_its_readings_once_a_record_is_past_its_lateness_and_bound() {
    let json = r#""source": {"topic": "t", "format": "json", "json": {"time": {"field": "at", "bound": "1h"}}}"#;
    let mut bench = Bench::new(1, &format!(r#"{json}, "window": {{"every": "1h"}}, "lateness": "2h""#)).await;
    bench.append(P0, &[minute(0), minute(239)]).await;
    // The first record may hold readings from an hour before it on, and be two hours late.
    assert_eq!(bench.cut(P0).await, [(-3, 0, 1, 0), (-2, 0, 1, 1), (-1, 0, 1, 1)]);
    bench.append(P0, &[minute(240)]).await;
    assert_eq!(bench.cut(P0).await, [(0, 0, 2, 1)]);
}

#[tokio::test]
async fn windows_without_offsets_are_passed_over_up_to_the_next_record() {
    let mut bench = Bench::hourly(1).await;
    bench.append(P0, &[minute(0), hour(1_000)]).await;
    assert_eq!(bench.cut(P0).await, [(-2, 0, 1, 0), (-1, 0, 1, 1), (0, 0, 1, 1)]);
    assert_eq!(bench.through(P0), hour(998), "the first that the record may be late for");
}

#[tokio::test]
async fn a_silent_partition_is_sealed_up_to_the_newest_record_of_the_others() {
    // The third has no record.
    let mut bench = Bench::hourly(3).await;
    // Its last record is not its newest.
    bench.append(P0, &[minute(630), minute(540)]).await;
    bench.append(P1, &[minute(300)]).await;
    bench.silent_for(P1, IDLE_S - 1);
    assert_eq!((bench.cut(P1).await, bench.through(P1)), (vec![], hour(3)));
    bench.silent_for(P1, IDLE_S);
    bench.silent_for(PartitionId(2), IDLE_S);
    assert_eq!(bench.cut(P1).await, [(3, 0, 1, 0), (4, 0, 1, 1), (5, 0, 1, 1)]);
    assert_eq!((bench.through(P0), bench.through(P1)), (hour(8), hour(11)));
    let reads = bench.log.reads.load(Ordering::SeqCst);
    bench.step().await;
    assert_eq!(bench.log.reads.load(Ordering::SeqCst), reads, "nothing has come: nothing is read");
    bench.append(P0, &[minute(690)]).await;
    bench.silent_for(P1, IDLE_S + 1);
    bench.silent_for(PartitionId(2), IDLE_S + 1);
    bench.cut(P1).await;
    assert_eq!(bench.through(P1), hour(12), "the newest is looked for again when something has come");
}

#[tokio::test]
async fn what_a_partition_has_not_answered_is_asked_again() {
    for call in [Call::LookUp, Call::Read] {
        let mut bench = Bench::hourly(2).await;
        bench.append(P0, &[minute(630), minute(540)]).await;
        bench.append(P1, &[minute(300)]).await;
        bench.cut(P1).await;
        bench.silent_for(P1, IDLE_S);
        bench.log.to.lock().unwrap().push((call, P0));
        bench.cut(P1).await;
        assert!(bench.through(P1) < hour(11), "{call:?}");
        bench.log.to.lock().unwrap().clear();
        bench.cut(P1).await;
        assert_eq!(bench.through(P1), hour(11), "{call:?}");
    }
}

#[tokio::test]
async fn silence_ends_a_window_only_once_the_clock_has_passed_its_lateness_and_goes_no_further_than_the_clock() {
    let json = r#""source": {"topic": "t", "format": "json", "json": {"time": {"field": "at", "bound": "5d"}}}"#;
    let spec = format!(r#"{json}, "window": {{"every": "day"}}, "lateness": "10d""#);
    let clock = |bench: &Bench| bench.parts.clock.now().plus_micros(-15 * DAY_US);
    // A record of not long ago; and one of long ago beside one to come.
    for (first, other) in [(-8, None), (-4_000, Some(30))] {
        let mut bench = Bench::new(2, &spec).await;
        let in_days = |days: i64| bench.parts.clock.now().plus_micros(days * DAY_US);
        bench.append(P0, &[in_days(first)]).await;
        if let Some(days) = other {
            bench.append(P1, &[in_days(days)]).await;
        }
        bench.silent_for(P0, IDLE_S);
        let calendar = bench.job.spec.window.calendar().unwrap();
        let before = calendar.window_of(clock(&bench)).start;
        bench.cut(P0).await;
        // Midnight may come while it is cut.
        assert!((before..=calendar.window_of(clock(&bench)).start).contains(&bench.through(P0)), "{first}");
    }
}

#[tokio::test]
async fn nothing_is_newer_than_a_record_at_the_end_of_the_calendar() {
    let mut bench = Bench::hourly(1).await;
    bench.append(P0, &[Timestamp::MAX]).await;
    bench.silent_for(P0, IDLE_S);
    let cut = tokio::time::timeout(std::time::Duration::from_secs(30), bench.cut(P0)).await;
    assert_eq!(cut.expect("it comes to an end"), []);
}

#[tokio::test]
async fn an_empty_partition_joins_in_silence_where_the_one_furthest_behind_is() {
    let mut bench = Bench::hourly(3).await;
    bench.silent_for(P1, IDLE_S);
    assert_eq!(bench.step().await, None, "nobody has begun");
    bench.append(P0, &[minute(600)]).await;
    bench.append(PartitionId(2), &[minute(360)]).await;
    bench.append(P1, &[minute(0), minute(0)]).await;
    bench.parts.log.truncate(&topic(), P1, Offset(2)).await.unwrap();
    bench.silent_for(P1, IDLE_S - 1);
    bench.cut(P0).await;
    assert!(!bench.cursors.contains_key(&P1), "it may get records yet");
    bench.silent_for(P1, IDLE_S);
    bench.step().await;
    assert_eq!((bench.through(P0), bench.through(PartitionId(2)), bench.through(P1)), (hour(8), hour(4), hour(4)));
    assert_eq!(bench.cursors[&P1].value.end, Offset(2), "it begins where its log does");
}

#[tokio::test]
async fn a_new_partition_joins_behind_the_windows_that_are_finished() {
    for (finished, begins) in [(1, 8), (20, 20)] {
        let mut bench = Bench::hourly(1).await;
        let (origin, finish_planned_through) = (hour(0), hour(finished));
        bench.progress = Some(Progress { origin, finish_planned_through, windows_complete: 0 });
        bench.append(P0, &[minute(600)]).await;
        bench.step().await;
        assert_eq!(bench.through(P0), hour(begins));
        assert_eq!(bench.progress_put, 1, "last steps that were planned without it, and are still on their way, fail");
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_yet_begins_nothing() {
    let mut bench = Bench::hourly(2).await;
    bench.append(P0, &[minute(600)]).await;
    bench.append(P1, &[minute(600)]).await;
    bench.silent_for(P0, IDLE_S);
    bench.log.to.lock().unwrap().push((Call::Read, P0));
    bench.cut(P1).await;
    assert!(!bench.cursors.contains_key(&P0), "it is not empty: where it begins is not known");
}

#[tokio::test]
async fn a_partition_that_cannot_be_read_holds_up_no_other() {
    let mut bench = Bench::hourly(3).await;
    // One that can't be joined, one that is cut already, and one that is sound; and silence, for which all are looked at.
    bench.append(P0, &[minute(600)]).await;
    bench.append(P1, &[minute(600), minute(1_200)]).await;
    bench.append(PartitionId(2), &[minute(600), minute(1_200)]).await;
    bench.begin_at(P1, hour(5));
    bench.silent_for(P1, IDLE_S);
    bench.log.to.lock().unwrap().extend([(Call::BrokenRead, P0), (Call::BrokenRead, P1)]);
    let cut = bench.cut(PartitionId(2)).await;
    assert!(!cut.is_empty() && bench.through(PartitionId(2)) > hour(10), "{cut:?}");
    assert!(!bench.cursors.contains_key(&P0));
}

#[tokio::test]
async fn while_much_is_in_flight_only_windows_that_are_planned_in_part_are_cut() {
    let mut bench = Bench::hourly(2).await;
    for (partition, through) in [(P0, 5), (P1, 3)] {
        bench.append(partition, &[hour(5), hour(100)]).await;
        bench.begin_at(partition, hour(through));
    }
    bench.in_flight = InFlight { batches: 1, failed: 0, newest: Some(hour(4)) };
    bench.cut(P1).await;
    assert_eq!((bench.through(P0), bench.through(P1)), (hour(5), hour(5)), "level, they wait for the workers");
    // One that has skipped a time without readings is far ahead, but has planned nothing there.
    bench.begin_at(P0, hour(90));
    bench.cut(P1).await;
    assert_eq!(bench.through(P1), hour(5));
    bench.begin_at(P0, hour(5));
    bench.in_flight = InFlight::default();
    bench.cut(P1).await;
    assert_eq!((bench.through(P0), bench.through(P1)), (hour(98), hour(98)));
}
