//! A batch from the log to published Parquet, on the embedded log and a local store.

use std::sync::Arc;
use std::time::Duration;

use windrow_embedded::Database;
use windrow_ports::log::{Append, Log, NewTopic};
use windrow_ports::{Clock, SystemClock};
use windrow_processing::{Engine, EngineSettings};
use windrow_protocol::marker::{Complete, Marker};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::plan::{BatchId, FinishPlan, Part, Revises, SealedBy};
use windrow_protocol::state::{Assignment, Task};
use windrow_protocol::{
    JobName, JobSpec, Offset, OffsetRange, PartitionId, Plan, Revision, Timestamp, TopicId, TopicName, Window,
};
use windrow_storage::{S3Settings, Store};
use windrow_wire::block::{BlockBuilder, Reading, Value};
use windrow_worker::Tools;
use windrow_worker::attempt::{AttemptError, run};

#[path = "attempt/volume.rs"]
mod volume;

struct Bench {
    tools: Tools,
    topic_id: TopicId,
    _folder: tempfile::TempDir,
}

const P0: PartitionId = PartitionId(0);

fn spec(reduce: bool) -> JobSpec {
    let reduce = if reduce { r#", "reduce": "SELECT sum(n) AS n FROM parts""# } else { "" };
    let json = format!(
        r#"{{"source": {{"topic": "t", "values": {{"speed": "f64"}}}}, "window": {{"every": "1h"}},
            "map": "SELECT device, count(*) AS n FROM readings GROUP BY device ORDER BY device"{reduce}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

/// Ten blocks of 100 readings of two devices, in the first hour of 1970; the last block repeats the first.
async fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("windrow.redb")).unwrap();
    let topic = TopicName::new("t").unwrap();
    let log = db.log();
    let new = NewTopic { name: topic.clone(), partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    log.create_topic(&new).await.unwrap();
    for block in [0u64, 1, 2, 3, 4, 5, 6, 7, 8, 0] {
        let mut builder = BlockBuilder::default();
        for i in 0..100 {
            let seq = block * 100 + i;
            let device = if i % 2 == 0 { "a" } else { "b" };
            let fields = vec![("speed", Value::F64(1.0))];
            builder.push(&Reading { device, time_us: seq as i64 * 1_000_000, seq: Some(seq), fields });
        }
        let timestamp = Timestamp::from_micros(block as i64 * 100_000_000 + 99_000_000);
        log.append(&topic, P0, vec![Append { key: None, payload: builder.finish(), timestamp }]).await.unwrap();
    }
    let topic_id = log.topic(&topic).await.unwrap().id;
    let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default()).unwrap();
    let scratch = folder.path().join("scratch");
    let engine = Engine::new(EngineSettings { memory_bytes: 64 << 20, scratch: scratch.clone() });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    Bench { tools: Tools::new(log, store, clock, engine, scratch), topic_id, _folder: folder }
}

fn window() -> Window {
    Window::new(Timestamp::from_millis(0), Timestamp::from_millis(3_600_000))
}

fn id(part: Part) -> BatchId {
    BatchId { job: JobName::new("job").unwrap(), window: window().id(), part, revision: Revision(0) }
}

fn map(bench: &Bench, spec: JobSpec) -> Assignment {
    let range = OffsetRange::new(Offset(0), Offset(10));
    let plan = Plan {
        topic: TopicName::new("t").unwrap(),
        topic_id: bench.topic_id.clone(),
        partition: P0,
        window: window(),
        read: range,
        owned: range,
        lost: None,
        sealed_by: SealedBy::Idle,
        revision: Revision(0),
        spec_hash: spec.hash(),
        generation: 1,
        revises: None,
    };
    Assignment { id: id(Part::Partition(P0)), task: Task::Map(plan), spec, skip: None, outcome: None }
}

fn finish(bench: &Bench, spec: JobSpec) -> Assignment {
    let plan = FinishPlan {
        topic: TopicName::new("t").unwrap(),
        topic_id: bench.topic_id.clone(),
        window: window(),
        until: window().end,
        windows: 1,
        shift: None,
        partitions: vec![P0],
        empty: vec![],
        revision: Revision(0),
        revisions: Default::default(),
        spec_hash: spec.hash(),
        generation: 1,
    };
    Assignment { id: id(Part::Finish), task: Task::Finish(plan), spec, skip: None, outcome: None }
}

async fn objects(bench: &Bench, folder: &str) -> Vec<String> {
    bench.tools.store.list(folder).await.unwrap().into_iter().map(|object| object.path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_read_deduplicated_mapped_committed_and_published() {
    let bench = bench().await;
    let summary = run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    assert_eq!((summary.rows, summary.ledger.kept, summary.ledger.duplicate), (2, 900, 100));
    assert_eq!(objects(&bench, "job/data").await, ["job/data/window=19700101T000000Z/part-00000-000.parquet"]);
    assert!(objects(&bench, "job/_staging").await.is_empty());
    assert_eq!(std::fs::read_dir(&bench.tools.scratch).unwrap().count(), 0, "scratch is cleared");
}

/// A query without end must not keep its slot for ever.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_longer_than_its_job_allows_is_stopped_and_says_so() {
    let bench = bench().await;
    let mut spec = spec(false);
    // Forty rows joined with themselves and the readings, over and over: 10^12 of each.
    let forty = (0..40).map(|n| format!("({n})")).collect::<Vec<_>>().join(", ");
    let joined =
        (0..8).fold("readings".to_owned(), |inner, i| format!("(VALUES {forty}) AS v{i} CROSS JOIN ({inner})"));
    spec.map = format!("SELECT count(*) AS n FROM {joined}");
    spec.attempt_timeout = Some("2s".parse().unwrap());
    // What works on the batch has the log in hand.
    let idle = Arc::strong_count(&bench.tools.log);
    let stopped = run(&bench.tools, &map(&bench, spec)).await.unwrap_err();
    assert!(matches!(&stopped, AttemptError::Retry(why) if why.contains("2s")), "{stopped}");
    assert!(objects(&bench, "job/data").await.is_empty() && objects(&bench, "job/_commits").await.is_empty());
    let ends = async {
        while Arc::strong_count(&bench.tools.log) > idle {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ends).await.expect("the query itself has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_attempt_changes_nothing() {
    let bench = bench().await;
    let first = run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    let marker_path = paths::marker(&id(Part::Finish).job, window().id(), Part::Partition(P0), Revision(0));
    let marker = bench.tools.store.read_marker::<Marker>(&marker_path).await.unwrap().unwrap();
    assert_eq!(run(&bench.tools, &map(&bench, spec(false))).await.unwrap(), first);
    assert_eq!(bench.tools.store.read_marker::<Marker>(&marker_path).await.unwrap().unwrap(), marker);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_attempts_at_once_one_counts() {
    let bench = bench().await;
    let assignment = map(&bench, spec(false));
    let results = futures::future::join_all((0..4).map(|_| run(&bench.tools, &assignment))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(objects(&bench, "job/data").await.len(), 1);
    assert!(objects(&bench, "job/_staging").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reduce_joins_the_parts_and_completes_the_window() {
    let bench = bench().await;
    let early = run(&bench.tools, &finish(&bench, spec(true))).await;
    assert!(
        matches!(early, Err(AttemptError::Retry(_))),
        "without the parts' markers there is nothing to join: {early:?}"
    );
    run(&bench.tools, &map(&bench, spec(true))).await.unwrap();
    let summary = run(&bench.tools, &finish(&bench, spec(true))).await.unwrap();
    assert_eq!((summary.rows, summary.ledger.kept), (1, 900));
    let job = id(Part::Finish).job;
    assert_eq!(objects(&bench, &paths::dataset(&job, Dataset::Parts)).await.len(), 1);
    let result = objects(&bench, &paths::dataset(&job, Dataset::Data)).await;
    assert_eq!(result, ["job/data/window=19700101T000000Z/part-reduce-000.parquet"]);
    let path = paths::marker(&job, window().id(), Part::Finish, Revision(0));
    let complete = bench.tools.store.read_marker::<Complete>(&path).await.unwrap().unwrap();
    assert_eq!((complete.rows, complete.inputs.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_retention_took_are_counted_as_lost_and_the_rest_is_computed() {
    let bench = bench().await;
    bench.tools.log.truncate(&TopicName::new("t").unwrap(), P0, Offset(3)).await.unwrap();
    let summary = run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    assert_eq!((summary.ledger.lost_offsets, summary.ledger.records, summary.ledger.kept), (3, 7, 700));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_again_parks_the_batch() {
    let bench = bench().await;
    let assignment = map(&bench, spec(false));
    let topic = TopicName::new("t").unwrap();
    bench.tools.log.delete_topic(&topic).await.unwrap();
    let new = NewTopic { name: topic, partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    bench.tools.log.create_topic(&new).await.unwrap();
    let parked = run(&bench.tools, &assignment).await;
    assert!(matches!(&parked, Err(AttemptError::Park(why)) if why.contains("made again")), "{parked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marker_of_an_earlier_job_of_the_same_name_is_never_taken_for_this_ones() {
    let bench = bench().await;
    run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    let mut anew = map(&bench, spec(false));
    if let Task::Map(plan) = &mut anew.task {
        plan.generation = 7;
    }
    run(&bench.tools, &anew).await.expect("the same batch at another generation");
    if let Task::Map(plan) = &mut anew.task {
        (plan.read, plan.owned) = (OffsetRange::new(Offset(2), Offset(10)), OffsetRange::new(Offset(2), Offset(10)));
    }
    let parked = run(&bench.tools, &anew).await;
    assert!(matches!(&parked, Err(AttemptError::Park(why)) if why.contains("earlier job of this name")), "{parked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_given_up_is_committed_without_a_result_and_a_committed_one_stays() {
    let bench = bench().await;
    let skip = Assignment { skip: Some("bad hour".to_owned()), ..map(&bench, spec(false)) };
    let summary = run(&bench.tools, &skip).await.unwrap();
    assert_eq!((summary.rows, summary.ledger.lost_offsets), (0, 10));
    let path = paths::marker(&skip.id.job, skip.id.window, skip.id.part, Revision(0));
    let marker = bench.tools.store.read_marker::<Marker>(&path).await.unwrap().unwrap();
    assert_eq!((marker.skipped.as_deref(), marker.files), (Some("bad hour"), vec![]));
    bench.tools.store.delete(vec![path.clone()]).await.unwrap();
    run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    run(&bench.tools, &skip).await.unwrap();
    let marker = bench.tools.store.read_marker::<Marker>(&path).await.unwrap().unwrap();
    assert_eq!((marker.skipped, marker.files.len()), (None, 1), "what was committed before stays");
}

/// The same batch run again, for a backfill.
fn again(bench: &Bench, spec: JobSpec) -> Assignment {
    let mut again = map(bench, spec.clone());
    again.id.revision = Revision(1);
    if let Task::Map(plan) = &mut again.task {
        plan.revision = Revision(1);
        let (cause, late) = ("backfill-b".parse().unwrap(), spec.late_rule());
        plan.revises = Some(Revises { base: Some(Revision(0)), cause, more: vec![], late });
    }
    again
}

async fn marker(bench: &Bench, revision: u32) -> Marker {
    let path = paths::marker(&id(Part::Finish).job, window().id(), Part::Partition(P0), Revision(revision));
    bench.tools.store.read_marker::<Marker>(&path).await.unwrap().unwrap()
}

const DATA: &str = "job/data/window=19700101T000000Z/part-00000-000.parquet";
const KEPT: &str = "job/revisions/window=19700101T000000Z/r0/part-00000-000.parquet";

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_replaces_the_result_and_keeps_what_it_was() {
    let bench = bench().await;
    run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    let mut other = spec(false);
    other.map = "SELECT count(*) AS n FROM readings".into();
    let summary = run(&bench.tools, &again(&bench, other)).await.unwrap();
    assert_eq!((summary.rows, summary.ledger.kept, summary.amends), (1, 900, None));
    assert_eq!(objects(&bench, "job/data").await, [DATA]);
    assert_eq!(objects(&bench, "job/revisions").await, [KEPT]);
    assert!(objects(&bench, "job/_staging").await.is_empty());
    let (first, next) = (marker(&bench, 0).await, marker(&bench, 1).await);
    assert_eq!(bench.tools.store.sha256(KEPT).await.unwrap(), first.files[0].sha256);
    assert_eq!(bench.tools.store.sha256(DATA).await.unwrap(), next.files[0].sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_given_up_leaves_the_result_that_stands() {
    let bench = bench().await;
    run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    let topic = TopicName::new("t").unwrap();
    // Whatever the reason: here the topic is gone.
    bench.tools.log.delete_topic(&topic).await.unwrap();
    let new = NewTopic { name: topic, partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    bench.tools.log.create_topic(&new).await.unwrap();
    let parked = run(&bench.tools, &again(&bench, spec(false))).await;
    assert!(matches!(parked, Err(AttemptError::Park(_))), "{parked:?}");
    let skip = Assignment { skip: Some("no topic".to_owned()), ..again(&bench, spec(false)) };
    let summary = run(&bench.tools, &skip).await.unwrap();
    assert_eq!((summary.rows, summary.ledger.kept, summary.ledger.lost_offsets), (2, 900, 0));
    let (first, next) = (marker(&bench, 0).await, marker(&bench, 1).await);
    assert_eq!((next.skipped.as_deref(), &next.files[0]), (Some("no topic"), &first.files[0]));
    assert_eq!(bench.tools.store.unpublished(&next).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_whose_file_is_gone_goes_on_when_it_is_given_up_and_is_mended_by_a_backfill() {
    let bench = bench().await;
    run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    bench.tools.store.delete(vec![DATA.to_owned()]).await.unwrap();
    let parked = run(&bench.tools, &map(&bench, spec(false))).await;
    assert!(matches!(&parked, Err(AttemptError::Park(why)) if why.contains("windrow skip")), "{parked:?}");
    let skip = Assignment { skip: Some("the disk died".to_owned()), ..map(&bench, spec(false)) };
    run(&bench.tools, &skip).await.unwrap();
    assert!(objects(&bench, "job/data").await.is_empty(), "nothing is made up");
    assert_eq!(run(&bench.tools, &again(&bench, spec(false))).await.unwrap().rows, 2);
    assert_eq!(objects(&bench, "job/data").await, [DATA]);
    assert_eq!(objects(&bench, "job/revisions").await, Vec::<String>::new(), "there was nothing to keep");
    assert_eq!(marker(&bench, 1).await.damaged, [DATA]);
}

/// A worker that slept while its window was cancelled and tried again by a changed job may wake and commit: its marker
/// stands, and what it did counts, or the window would be stuck for good.
#[tokio::test(flavor = "multi_thread")]
async fn who_gives_a_batch_up_goes_on_with_what_another_spec_has_made_of_the_same_readings() {
    let bench = bench().await;
    let mut changed = spec(false);
    changed.map = "SELECT count(*) AS n FROM readings".into();
    run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    let parked = run(&bench.tools, &map(&bench, changed.clone())).await;
    assert!(matches!(&parked, Err(AttemptError::Park(why)) if why.contains("windrow skip")), "{parked:?}");
    let skip = |assignment| Assignment { skip: Some("it slept".to_owned()), ..assignment };
    assert_eq!(run(&bench.tools, &skip(map(&bench, changed.clone()))).await.unwrap().rows, 2, "as it stands");
    assert_eq!((marker(&bench, 0).await.skipped, objects(&bench, "job/data").await), (None, vec![DATA.to_owned()]));
    assert_eq!(run(&bench.tools, &finish(&bench, changed.clone())).await.unwrap().rows, 2);

    // Of other readings it is nobody's, and where a reduce looks for parts it would be overlooked.
    let mut others = skip(map(&bench, changed));
    if let Task::Map(plan) = &mut others.task {
        plan.read.start = Offset(1);
    }
    for unlike in [others, skip(map(&bench, spec(true)))] {
        let parked = run(&bench.tools, &unlike).await;
        assert!(matches!(parked, Err(AttemptError::Park(_))), "{parked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_was_planned_as_the_first_result_replaces_none() {
    let bench = bench().await;
    run(&bench.tools, &map(&bench, spec(false))).await.unwrap();
    let mut blind = again(&bench, spec(false));
    if let Task::Map(Plan { revises: Some(revises), .. }) = &mut blind.task {
        revises.base = None;
    }
    let parked = run(&bench.tools, &blind).await;
    assert!(matches!(&parked, Err(AttemptError::Park(why)) if why.contains("another store")), "{parked:?}");
}
