use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::state::{JobRecord, Summary};
use windrow_protocol::volume::Pace;
use windrow_protocol::{JobSpec, TopicName, WorkerId};

use super::*;
use crate::Parts;
use crate::dispatch::tests::{Store, job, record};
use crate::dispatch::volume::tests::open_window;
use crate::fixture::{self, Call, Deaf};
use crate::planner::{Cursors, InFlight, Silence};
use windrow_protocol::duration::Length;

const P0: PartitionId = PartitionId(0);
const HOUR_MS: i64 = 3_600_000;

/// A job over one partition, and what is stored of it.
struct Bench {
    parts: Parts,
    job: JobRecord,
    cursors: Cursors,
    open: OpenBatches,
    progress: Option<Progress>,
    /// Batches that are not open.
    last_steps: usize,
    /// How long the partition has been silent.
    silent: Length,
    _folder: tempfile::TempDir,
}

fn topic() -> TopicName {
    TopicName::new("t").unwrap()
}

impl Bench {
    /// With an idle timeout of an hour.
    async fn new(window: &str) -> Self {
        let (folder, parts) = fixture::parts();
        let new = NewTopic { name: topic(), partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
        parts.log.create_topic(&new).await.unwrap();
        let spec = format!(
            r#"{{"source": {{"topic": "t"}}, "window": {{"every": "volume", {window}}}, "idleTimeout": "1h",
                "map": "SELECT 1"}}"#
        );
        let spec: JobSpec = serde_json::from_str(&spec).unwrap();
        let job = JobRecord::new(JobName::new("j").unwrap(), spec, Timestamp::MIN);
        let (cursors, open, progress, last_steps, silent) = Default::default();
        let mut bench = Self { parts, job, cursors, open, progress, last_steps, silent, _folder: folder };
        bench.step().await;
        bench.step().await;
        assert_eq!(bench.cursor().end, Offset(0), "windows begin where the log does");
        bench
    }

    async fn append(&self, ms: &[i64]) {
        let record = |ms: &i64| Append { timestamp: Timestamp::from_millis(*ms), key: None, payload: "x".into() };
        self.parts.log.append(&topic(), P0, ms.iter().map(record).collect()).await.unwrap();
    }

    /// One step, with what it writes taken in.
    async fn step(&mut self) -> usize {
        let site = Site {
            parts: &self.parts,
            job: &self.job,
            topic: self.parts.log.topic(&topic()).await.unwrap(),
            cursors: self.cursors.clone(),
            progress: self.progress.clone().map(|value| Versioned { value, revision: 1 }),
            in_flight: InFlight { batches: self.open.len() + self.last_steps, ..InFlight::default() },
            max_in_flight: 1,
        };
        let (ends, _) = site.look_at_ends(&mut Silence::default()).await.unwrap();
        let (until, silent) = (self.job.spec.window.volume().unwrap(), [(P0, self.silent)].into());
        let planner = VolumePlanner { site: &site, until, open: self.open.clone() };
        let writes = planner.writes(&ends, &silent).await.unwrap();
        let count = writes.len();
        for op in writes.into_iter().flat_map(|write| write.then) {
            let Op::Put { key, value, .. } = op else { panic!("{op:?}") };
            if key == keys::progress(&self.job.name) {
                self.progress = serde_json::from_slice(&value).unwrap();
            } else if key == keys::cursor(&self.job.name, P0) {
                self.cursors.insert(P0, Versioned { value: serde_json::from_slice(&value).unwrap(), revision: 1 });
            } else {
                self.open.insert(P0, Versioned { value: serde_json::from_slice(&value).unwrap(), revision: 1 });
            }
        }
        count
    }

    fn cursor(&self) -> &Cursor {
        &self.cursors[&P0].value
    }

    fn batch(&mut self) -> &mut BatchRecord {
        &mut self.open.get_mut(&P0).expect("an open batch").value
    }

    fn cut(&mut self) -> VolumeCut {
        let Task::Map(plan) = &self.batch().task else { panic!("a map") };
        *plan.volume().unwrap()
    }

    /// As if the last windows had held so many readings a record.
    fn with_pace(&mut self, records: u64, amount: u64) {
        self.cursors.get_mut(&P0).unwrap().value.pace = Some(Pace { records, amount });
    }

    /// A worker has looked and found this.
    fn short(&mut self, seen: Seen, until: i64) {
        let batch = self.batch();
        batch.state = BatchState::Pending;
        batch.waiting = Some(Waiting { seen, until: Some(Offset(until)) });
    }
}

#[tokio::test]
async fn a_window_begins_with_the_first_record_and_is_handed_out_at_once_when_nothing_is_known() {
    let mut bench = Bench::new(r#""readings": 100"#).await;
    assert_eq!(bench.step().await, 0, "an empty log has no window");
    bench.append(&[0]).await;
    assert_eq!(bench.step().await, 1);
    let batch = bench.batch();
    assert_eq!((batch.id.window.to_string().as_str(), batch.waits_for_readings()), ("p0-o0", false));
    let Task::Map(plan) = &batch.task else { panic!("a map") };
    assert_eq!(plan.lost, None);
    assert_eq!(bench.step().await, 0, "one at a time");
}

#[tokio::test]
async fn a_window_waits_until_the_averages_say_that_it_is_full() {
    let mut bench = Bench::new(r#""readings": 100"#).await;
    bench.with_pace(10, 500);
    bench.append(&[0]).await;
    bench.step().await;
    assert_eq!(bench.batch().waiting.unwrap().until, Some(Offset(2)));
    assert_eq!(bench.step().await, 0);
    bench.append(&[0]).await;
    assert_eq!(bench.step().await, 1);
    assert!(!bench.batch().waits_for_readings());
}

#[tokio::test]
async fn a_window_that_was_short_is_handed_out_again_when_the_log_has_grown() {
    let mut bench = Bench::new(r#""readings": 100"#).await;
    bench.append(&[0, 0]).await;
    bench.step().await;
    bench.short(Seen { through: Offset(2), records: 2, amount: 50, times: None }, 4);
    bench.append(&[0]).await;
    assert_eq!(bench.step().await, 0);
    bench.append(&[0]).await;
    assert_eq!(bench.step().await, 1);
    assert!(!bench.batch().waits_for_readings());
}

#[tokio::test]
async fn a_record_past_its_time_hands_a_window_out_however_little_it_holds() {
    let mut bench = Bench::new(r#""readings": 1000000, "within": "1h""#).await;
    bench.with_pace(10, 10);
    bench.append(&[0, HOUR_MS - 1]).await;
    bench.step().await;
    assert!(bench.batch().waits_for_readings());
    bench.append(&[HOUR_MS]).await;
    assert_eq!(bench.step().await, 1);
    assert!(!bench.batch().waits_for_readings());
}

#[tokio::test]
async fn silence_seals_a_window_that_has_a_time_once_and_never_in_a_workers_hands() {
    let mut bench = Bench::new(r#""readings": 1000000, "within": "1h""#).await;
    bench.with_pace(10, 10);
    bench.append(&[0, 0]).await;
    bench.silent = Length::from_secs(3_599);
    bench.step().await;
    assert_eq!(bench.cut().sealed_at, None);
    bench.silent = Length::from_secs(3_600);
    let assigned = BatchState::Assigned { worker: WorkerId::new("w").unwrap() };
    bench.batch().state = assigned;
    assert_eq!(bench.step().await, 0, "a worker has it");
    bench.batch().state = BatchState::Failed;
    assert_eq!(bench.step().await, 0, "it is parked");
    bench.batch().state = BatchState::Pending;
    assert_eq!(bench.step().await, 1);
    assert_eq!((bench.cut().sealed_at, bench.batch().waits_for_readings()), (Some(Offset(2)), false));
    bench.append(&[0]).await;
    assert_eq!(bench.step().await, 0, "it is sealed once");
}

#[tokio::test]
async fn offsets_that_retention_took_before_they_were_planned_are_in_the_plan() {
    let mut bench = Bench::new(r#""readings": 100"#).await;
    bench.append(&[0, 0, 0]).await;
    bench.parts.log.truncate(&topic(), P0, Offset(2)).await.unwrap();
    bench.step().await;
    let Task::Map(plan) = &bench.batch().task else { panic!("a map") };
    assert_eq!((plan.owned.start, plan.lost), (Offset(0), Some(OffsetRange::new(Offset(0), Offset(2)))));
}

/// That its first record can't be read is its own affair: the step goes on, and so do others' windows.
#[tokio::test]
async fn a_partition_that_can_not_be_read_holds_up_no_other() {
    let mut bench = Bench::new(r#""readings": 100, "within": "1h""#).await;
    bench.append(&[0]).await;
    let log = Deaf::new(bench.parts.log.clone());
    log.to.lock().unwrap().push((Call::BrokenRead, P0));
    bench.parts.log = log.clone();
    assert_eq!(bench.step().await, 0);
    log.to.lock().unwrap().clear();
    assert_eq!(bench.step().await, 1);
}

#[tokio::test]
async fn windows_wait_while_too_many_last_steps_are_in_flight() {
    let mut bench = Bench::new(r#""readings": 100"#).await;
    bench.append(&[0]).await;
    bench.last_steps = 1;
    assert_eq!(bench.step().await, 0);
    bench.last_steps = 0;
    assert_eq!(bench.step().await, 1);
}

#[test]
fn a_window_is_open_until_its_batch_is_committed() {
    let mut store = Store::default();
    let states = [BatchState::Pending, BatchState::Failed, BatchState::Committed(Summary::default())];
    for (partition, state) in (0..).map(PartitionId).zip(states) {
        let batch = BatchRecord { state, ..open_window(partition, 7, None) };
        store.set(keys::batch(&job(), batch.id.window, batch.id.part), &batch);
    }
    let of_time = record(3, Part::Partition(PartitionId(5)), 6);
    store.set(keys::batch(&job(), of_time.id.window, of_time.id.part), &of_time);
    let open: Vec<i32> = open_batches(&store.view, &job()).keys().map(|partition| partition.0).collect();
    assert_eq!(open, [0, 1]);
}
