use windrow_protocol::plan::SealedBy;
use windrow_protocol::state::{JobRecord, Outcome, Progress, Summary, WorkerRecord, keys};
use windrow_protocol::volume::{Amount, Pace, Seen, Until, VolumeCut, Waiting};
use windrow_protocol::{
    JobSpec, Ledger, Offset, OffsetRange, Revision, Timestamp, TopicId, TopicName, Window, WindowId, WorkerId,
};

use super::*;
use crate::dispatch::tests::{Store, job};

const P0: PartitionId = PartitionId(0);

fn spec() -> JobSpec {
    let text = r#"{"source": {"topic": "t"}, "window": {"every": "volume", "readings": 100}, "map": "SELECT 1"}"#;
    serde_json::from_str(text).unwrap()
}

/// The batch of a window of 100 readings.
pub(crate) fn open_window(partition: PartitionId, start: i64, waiting: Option<Waiting>) -> BatchRecord {
    let range = OffsetRange::new(Offset(start), Offset(start));
    let until = Until { amount: Amount::Readings(100), within: None };
    let plan = Plan {
        revises: None,
        topic: TopicName::new("t").unwrap(),
        topic_id: TopicId::new("i").unwrap(),
        partition,
        window: Window::of_volume(partition, Offset(start)),
        read: range,
        owned: range,
        lost: None,
        sealed_by: SealedBy::Volume(VolumeCut::new(until)),
        revision: Revision(0),
        spec_hash: spec().hash(),
        generation: 3,
    };
    let part = Part::Partition(partition);
    let id = BatchId { job: job(), window: plan.window.id(), part, revision: Revision(0) };
    BatchRecord { waiting, ..BatchRecord::new(id, Task::Map(plan)) }
}

/// A job whose first partition has an open window at offset 7, and a worker with room.
fn begun(waiting: Option<Waiting>) -> Store {
    let mut store = Store::default();
    store.set(keys::job(&job()), &JobRecord::new(job(), spec(), Timestamp::default()));
    store.set(keys::spec(&job(), &spec().hash()), &spec());
    let none = Timestamp::default();
    store.set(keys::progress(&job()), &Progress { origin: none, finish_planned_through: none, windows_complete: 4 });
    let cursor = Cursor::of_volume(TopicId::new("i").unwrap(), Offset(7));
    store.set(keys::cursor(&job(), P0), &cursor);
    let batch = open_window(P0, 7, waiting);
    store.set(keys::batch(&job(), batch.id.window, batch.id.part), &batch);
    let id = WorkerId::new("w").unwrap();
    let worker = WorkerRecord { id: id.clone(), slots: 2, version: String::new(), lease: 1, draining: false };
    store.set(keys::worker(&id), &worker);
    store
}

fn window(start: i64) -> WindowId {
    Window::of_volume(P0, Offset(start)).id()
}

fn seen(through: i64, records: u64, amount: u64) -> Seen {
    Seen { through: Offset(through), records, amount, times: None }
}

fn committed(found: Seen) -> Outcome {
    let ledger = Ledger { records: found.records, read: found.amount, ..Ledger::default() };
    Outcome::Committed(Summary { rows: 1, bytes: 1, ledger, amends: None, found: Some(found) })
}

fn batch(store: &Store, part: Part) -> Option<&BatchRecord> {
    store.view.batches[&job()].get(&(window(7), part)).map(|batch| &batch.value)
}

#[test]
fn a_commit_moves_the_cursor_to_the_end_that_was_found_and_plans_the_last_step() {
    let mut store = begun(None);
    store.dispatch();
    assert_eq!(store.report(&committed(seen(12, 5, 104))), 1);
    store.dispatch();
    let cursor = &store.view.cursors[&job()][&P0].value;
    assert_eq!((cursor.end, cursor.next_start), (Offset(12), Offset(12)));
    assert_eq!(cursor.pace, Some(Pace { records: 5, amount: 104 }));
    let last = batch(&store, Part::Finish).expect("a last step");
    let Task::Finish(plan) = &last.task else { panic!("a last step") };
    assert_eq!((&plan.partitions, plan.windows, plan.generation), (&vec![P0], 1, 3));
    assert_eq!((plan.window.id(), &plan.spec_hash), (window(7), &spec().hash()));
    assert!(matches!(last.state, BatchState::Assigned { .. }), "its only partition is in");
    store.report(&Outcome::Committed(Summary::default()));
    store.dispatch();
    assert_eq!(store.view.progress[&job()].value.windows_complete, 5);
    assert!(store.view.batches[&job()].is_empty());
}

#[test]
fn a_window_that_is_not_full_waits_until_the_log_has_grown_and_has_not_failed() {
    let mut store = begun(None);
    store.dispatch();
    store.report(&Outcome::Short(seen(12, 5, 50)));
    store.dispatch();
    let waiting = batch(&store, Part::Partition(P0)).unwrap();
    assert_eq!((&waiting.state, waiting.failures, &waiting.last_error), (&BatchState::Pending, 0, &None));
    assert_eq!(waiting.waiting, Some(Waiting { seen: seen(12, 5, 50), until: Some(Offset(17)) }));
    assert_eq!(store.report(&Outcome::Released), 0, "nobody has it");
    assert_eq!(store.view.cursors[&job()][&P0].value.end, Offset(7), "the cursor stays");
}

#[test]
fn a_batch_that_waits_for_readings_is_not_handed_out_until_the_planner_frees_it() {
    let waits = Waiting { seen: seen(7, 0, 0), until: Some(Offset(9)) };
    let mut store = begun(Some(waits));
    store.dispatch();
    assert_eq!(batch(&store, Part::Partition(P0)).unwrap().state, BatchState::Pending);
    let freed = open_window(P0, 7, Some(Waiting { until: None, ..waits }));
    store.set(keys::batch(&job(), freed.id.window, freed.id.part), &freed);
    store.dispatch();
    assert!(matches!(batch(&store, Part::Partition(P0)).unwrap().state, BatchState::Assigned { .. }));
}

#[test]
fn what_a_worker_reports_of_a_window_that_the_cursor_has_left_moves_nothing() {
    let store = begun(None);
    let mut late = open_window(P0, 7, None);
    late.state = BatchState::Committed(Summary { found: Some(seen(12, 5, 104)), ..Summary::default() });
    assert!(ended(&store.view, &late).is_some());
    let mut elsewhere = open_window(P0, 3, None);
    elsewhere.state = late.state.clone();
    assert!(ended(&store.view, &elsewhere).is_none());
    late.state = BatchState::Committed(Summary { found: Some(seen(7, 0, 0)), ..Summary::default() });
    assert!(ended(&store.view, &late).is_none(), "nor one that ends where it begins: the next would be the same");
    assert!(ended(&store.view, &open_window(P0, 7, None)).is_none(), "not committed");
}
