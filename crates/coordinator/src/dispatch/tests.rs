use proptest::prelude::*;
use windrow_ports::meta::{KeyValue, Txn};
use windrow_protocol::plan::{BatchId, FinishPlan, OffsetRange, Part, Plan, SealedBy};
use windrow_protocol::revise::Amends;
use windrow_protocol::state::{JobRecord, Summary};
use windrow_protocol::{JobSpec, Offset, PartitionId, TopicId, TopicName, Window, WindowId};

use super::*;

/// A store of one process: applies writes as the real one does, and checks their conditions and limits.
#[derive(Default)]
pub(crate) struct Store {
    items: BTreeMap<String, KeyValue>,
    revision: i64,
    pub view: View,
    turns: Turns,
}

impl Store {
    fn put(&mut self, key: String, value: Vec<u8>, lease: i64) {
        let create_revision = self.items.get(&key).map_or(self.revision, |item| item.create_revision);
        let item =
            KeyValue { key: key.clone(), value: value.into(), create_revision, mod_revision: self.revision, lease };
        self.view.put(&item);
        self.items.insert(key, item);
    }

    pub fn set<T: serde::Serialize>(&mut self, key: String, value: &T) {
        self.revision += 1;
        self.put(key, encode(value), 0);
    }

    fn delete(&mut self, key: &str) {
        self.items.remove(key);
        self.view.delete(key);
    }

    pub fn write(&mut self, write: Write) {
        let Txn { when, then } = Txn { when: write.when, then: write.then };
        assert!(when.len() < MAX_TXN_OPS && then.len() < MAX_TXN_OPS, "{} {}", when.len(), then.len());
        for compare in when {
            let holds = match &compare {
                Compare::Absent(key) => !self.items.contains_key(key),
                Compare::Created(key, revision) => {
                    self.items.get(key).is_some_and(|item| item.create_revision == *revision)
                }
                Compare::Modified(key, revision) => {
                    self.items.get(key).is_some_and(|item| item.mod_revision == *revision)
                }
            };
            assert!(holds, "{compare:?}");
        }
        self.revision += 1;
        let mut put = std::collections::BTreeSet::new();
        for op in then {
            match op {
                Op::Put { key, value, lease } => {
                    assert!(put.insert(key.clone()), "{key} is put twice in one transaction");
                    self.put(key, value.to_vec(), lease);
                }
                Op::Delete { key } => self.delete(&key),
                Op::DeletePrefix { prefix } => {
                    let keys: Vec<String> = self.items.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
                    keys.iter().for_each(|key| self.delete(key));
                }
            }
        }
    }

    /// Settles and assigns until there is nothing to do.
    pub fn dispatch(&mut self) {
        self.until_done(|store| settle(&store.view, now()));
        self.until_done(|store| assign(&store.view, &mut store.turns, now()));
    }

    fn until_done(&mut self, step: impl Fn(&mut Self) -> Write) {
        for _ in 0..100 {
            let write = step(self);
            if write.then.is_empty() {
                return;
            }
            self.write(write);
        }
        panic!("it comes to no end");
    }

    pub fn report(&mut self, outcome: &Outcome) -> usize {
        let mut reported = 0;
        for (key, assignment) in self.items.clone().range(keys::ASSIGNMENTS.to_owned()..) {
            let Some(_) = key.strip_prefix(keys::ASSIGNMENTS) else { continue };
            let assignment: Assignment = serde_json::from_slice(&assignment.value).unwrap();
            if assignment.outcome.is_none() {
                self.set(key.clone(), &Assignment { outcome: Some(outcome.clone()), ..assignment });
                reported += 1;
            }
        }
        reported
    }
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_000)
}

pub(crate) fn job() -> JobName {
    JobName::new("j").unwrap()
}

pub(crate) fn spec() -> JobSpec {
    serde_json::from_str(r#"{"source": {"topic": "t"}, "window": {"every": "1h"}, "map": "SELECT 1"}"#).unwrap()
}

pub(crate) fn window(hour: i64) -> Window {
    let at = |hour: i64| Timestamp::from_millis(hour * 3_600_000);
    Window::new(at(hour), at(hour + 1))
}

pub(crate) fn record(hour: i64, part: Part, partitions: i32) -> BatchRecord {
    let (topic, topic_id) = (TopicName::new("t").unwrap(), TopicId::new("i").unwrap());
    let (window, spec_hash) = (window(hour), spec().hash());
    let task = match part {
        Part::Partition(partition) => Task::Map(Plan {
            topic,
            topic_id,
            partition,
            window,
            read: OffsetRange::new(Offset(0), Offset(1)),
            owned: OffsetRange::new(Offset(0), Offset(1)),
            lost: None,
            sealed_by: SealedBy::Watermark,
            revision: Revision(0),
            spec_hash,
            generation: 1,
            revises: None,
        }),
        Part::Finish => Task::Finish(FinishPlan {
            topic,
            topic_id,
            window,
            until: window.end,
            windows: 1,
            shift: None,
            partitions: (0..partitions).map(PartitionId).collect(),
            empty: vec![],
            revision: Revision(0),
            revisions: BTreeMap::new(),
            spec_hash,
            generation: 1,
        }),
    };
    let id = BatchId { job: job(), window: window.id(), part, revision: Revision(0) };
    BatchRecord::new(id, task)
}

/// A job with as many windows of as many partitions, all planned, last steps included.
pub(crate) fn planned(windows: i64, partitions: i32) -> Store {
    let mut store = Store::default();
    let record_of_job = JobRecord::new(job(), spec(), now());
    store.set(keys::job(&job()), &record_of_job);
    store.set(keys::spec(&job(), &spec().hash()), &spec());
    let origin = window(0).start;
    let finish_planned_through = window(windows).start;
    store.set(keys::progress(&job()), &Progress { origin, finish_planned_through, windows_complete: 0 });
    for hour in 0..windows {
        for part in (0..partitions).map(|p| Part::Partition(PartitionId(p))).chain([Part::Finish]) {
            store.set(keys::batch(&job(), window(hour).id(), part), &record(hour, part, partitions));
        }
    }
    store
}

pub(crate) fn worker(store: &mut Store, name: &str, slots: u32) -> WorkerId {
    let id = WorkerId::new(name).unwrap();
    let worker = WorkerRecord { id: id.clone(), slots, version: String::new(), lease: 7, draining: false };
    store.set(keys::worker(&id), &worker);
    id
}

fn committed() -> Outcome {
    Outcome::Committed(Summary { rows: 1, bytes: 1, ..Summary::default() })
}

#[test]
fn everything_planned_is_run_in_order_and_leaves_only_progress_behind() {
    let mut store = planned(5, 3);
    worker(&mut store, "a", 2);
    worker(&mut store, "b", 3);
    let mut reported = 0;
    loop {
        store.dispatch();
        let held = store.view.assignments.values().map(|assignment| &assignment.value.id);
        for finish in held.filter(|id| id.part == Part::Finish) {
            let open = store.view.batches[&job()]
                .iter()
                .filter(|((window, part), batch)| {
                    *window == finish.window
                        && *part != Part::Finish
                        && !matches!(batch.value.state, BatchState::Committed(_))
                })
                .count();
            assert_eq!(open, 0, "{finish} runs after its window's partitions");
        }
        let now_reported = store.report(&committed());
        assert!(now_reported <= 5, "no worker has more than its slots");
        reported += now_reported;
        if now_reported == 0 {
            break;
        }
    }
    assert_eq!(reported, 5 * 4);
    assert!(store.view.batches[&job()].is_empty());
    assert_eq!(store.view.progress[&job()].value.windows_complete, 5);
}

#[test]
fn more_reports_than_fit_one_transaction_are_all_taken_in() {
    let mut store = planned(500, 1);
    worker(&mut store, "a", 1_000);
    store.dispatch();
    assert_eq!(store.report(&committed()), 500);
    store.dispatch();
    assert_eq!(store.report(&committed()), 500, "the last steps");
    store.dispatch();
    assert_eq!(store.view.progress[&job()].value.windows_complete, 500);
    assert!(store.view.batches[&job()].is_empty());
}

/// A report of a batch that has met late readings of hour 0.
fn met_late(offset: i64) -> Outcome {
    let mut amends = None;
    Amends::add(&mut amends, Offset(offset), window(0));
    Outcome::Committed(Summary { amends, ..Summary::default() })
}

#[test]
fn what_a_window_has_met_late_is_wished_for_in_the_write_that_ends_it() {
    let mut store = planned(2, 2);
    worker(&mut store, "a", 10);
    store.dispatch();
    store.report(&met_late(7));
    store.dispatch();
    assert!(store.view.wishes.is_empty(), "not before the window is complete");
    store.report(&committed());
    let write = settle(&store.view, now());
    let wished =
        write.then.iter().filter(|op| matches!(op, Op::Put { key, .. } if key.contains("/revisions/"))).count();
    let ended = write.then.iter().filter(|op| matches!(op, Op::DeletePrefix { .. })).count();
    assert_eq!((wished, ended), (2, 2), "one for each window");
    store.write(write);
    let wish = &store.view.wishes[&job()][&WishId::Late(window(1).id())].value;
    assert_eq!(wish.offsets.keys().map(|partition| partition.0).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((wish.next, wish.spans.len()), (window(0).start, 1));
}

#[test]
fn a_window_wishes_for_what_its_own_batches_have_met() {
    let (mut store, part) = (planned(2, 1), Part::Partition(PartitionId(0)));
    for (hour, outcome) in [(0, met_late(7)), (1, committed())] {
        let Outcome::Committed(summary) = outcome else { panic!("committed") };
        let batch = BatchRecord { state: BatchState::Committed(summary), ..record(hour, part, 1) };
        store.set(keys::batch(&job(), window(hour).id(), part), &batch);
    }
    worker(&mut store, "a", 2);
    store.dispatch();
    assert_eq!(store.report(&committed()), 2, "both last steps, which end in one write");
    store.dispatch();
    assert!(store.view.batches[&job()].is_empty());
    let wishes: Vec<&WishId> = store.view.wishes[&job()].keys().collect();
    assert_eq!(wishes, [&WishId::Late(window(0).id())]);
}

/// Makes all batches of an hour those of a revision.
fn run_again(store: &mut Store, hour: i64) {
    let records: Vec<BatchRecord> = store.view.batches[&job()].values().map(|batch| batch.value.clone()).collect();
    for mut record in records.into_iter().filter(|record| record.id.window == window(hour).id()) {
        record.id.revision = Revision(1);
        match &mut record.task {
            Task::Map(plan) => plan.revision = Revision(1),
            Task::Finish(plan) => plan.revision = Revision(1),
        }
        store.set(keys::batch(&job(), record.id.window, record.id.part), &record);
    }
}

#[test]
fn a_revision_waits_for_first_results_counts_no_window_and_wishes_for_nothing() {
    let mut store = planned(2, 1);
    run_again(&mut store, 0);
    worker(&mut store, "a", 1);
    store.dispatch();
    let held: Vec<_> = store.view.assignments.values().map(|it| (it.value.id.window, it.value.id.revision)).collect();
    assert_eq!(held, [(window(1).id(), Revision(0))], "the newer window, since it has no result yet");
    worker(&mut store, "b", 5);
    for _ in 0..3 {
        store.dispatch();
        store.report(&met_late(9));
    }
    store.dispatch();
    assert!(store.view.batches[&job()].is_empty());
    assert_eq!(store.view.progress[&job()].value.windows_complete, 1);
    let wishes: Vec<&WishId> = store.view.wishes[&job()].keys().collect();
    assert_eq!(wishes, [&WishId::Late(window(1).id())]);
}

/// Conditions and operations of a write.
fn size(write: &Write) -> (usize, usize) {
    (write.when.len(), write.then.len())
}

#[test]
fn a_write_is_as_full_as_a_transaction_may_be_less_room_for_the_leaders_own_condition() {
    let mut store = planned(100, 1);
    worker(&mut store, "a", 100);
    // Three conditions and two operations for each that is handed out.
    assert_eq!(size(&assign(&store.view, &mut Turns::default(), now())), (120, 80));
    store.dispatch();
    store.report(&committed());
    // Two of each for a report.
    assert_eq!(size(&settle(&store.view, now())), (118, 118));
    store.dispatch();
    store.report(&committed());
    // The last steps of one job: its progress comes on top.
    assert_eq!(size(&settle(&store.view, now())), (117, 117));
}

#[test]
fn what_is_taken_back_fits_a_transaction_too() {
    let mut store = planned(200, 1);
    let dead = worker(&mut store, "a", 200);
    store.dispatch();
    store.delete(&keys::worker(&dead));
    let assigned: Vec<String> = store.view.assignments.keys().cloned().collect();
    assigned.iter().for_each(|key| store.delete(key));
    assert_eq!(size(&settle(&store.view, now())), (117, 117));
    store.dispatch();
    assert!(store.view.queues[&job()].assigned.is_empty());
}

#[test]
fn what_a_dead_worker_had_goes_to_another() {
    let mut store = planned(1, 3);
    let dead = worker(&mut store, "a", 3);
    store.dispatch();
    assert_eq!(store.view.queues[&job()].assigned.len(), 3);
    // Its lease ends: its keys go at once.
    let lost: Vec<String> = store.items.values().filter(|item| item.lease == 7).map(|item| item.key.clone()).collect();
    store.delete(&keys::worker(&dead));
    lost.iter().for_each(|key| store.delete(key));
    store.dispatch();
    assert_eq!(store.view.queues[&job()].pending.len(), 4);
    worker(&mut store, "b", 3);
    store.dispatch();
    assert!(store.view.assignments.keys().all(|key| key.starts_with("/windrow/v1/assignments/b/")));
    assert_eq!(store.view.assignments.len(), 3);
}

/// Otherwise a batch that was planned before could never be given more time.
#[test]
fn the_job_as_it_is_now_decides_how_long_an_attempt_may_take() {
    let mut store = planned(1, 1);
    let mut changed = store.view.jobs[&job()].value.clone();
    changed.spec.attempt_timeout = Some("3h".parse().unwrap());
    store.set(keys::job(&job()), &changed);
    worker(&mut store, "a", 1);
    store.dispatch();
    let assigned = store.view.assignments.values().next().expect("it is handed out");
    assert_eq!(assigned.value.spec.attempt_timeout(), "3h".parse().unwrap());
}

#[test]
fn a_failed_batch_waits_out_its_pause_and_a_paused_job_gets_no_worker() {
    let mut store = planned(1, 1);
    worker(&mut store, "a", 1);
    store.dispatch();
    store.report(&Outcome::Failed { error: "disk full".into(), retryable: true });
    store.dispatch();
    assert!(store.view.assignments.is_empty());
    let later = Timestamp::from_millis(60_000);
    assert!(!assign(&store.view, &mut Turns::default(), later).then.is_empty());
    let mut paused = store.view.jobs[&job()].value.clone();
    paused.paused = Some("why".into());
    store.set(keys::job(&job()), &paused);
    assert!(assign(&store.view, &mut Turns::default(), later).then.is_empty());
}

proptest! {
    #[test]
    fn a_view_that_follows_changes_is_the_view_of_a_new_listing(
        changes in prop::collection::vec((0i64..3, 0i32..3, 0usize..4, any::<bool>()), 0..60)
    ) {
        let mut store = Store::default();
        for (hour, partition, state, gone) in changes {
            let part = if partition == 2 { Part::Finish } else { Part::Partition(PartitionId(partition)) };
            let key = keys::batch(&job(), window(hour).id(), part);
            if gone {
                store.delete(&key);
            } else {
                let states = [
                    BatchState::Pending,
                    BatchState::Assigned { worker: WorkerId::new("w").unwrap() },
                    BatchState::Committed(Summary::default()),
                    BatchState::Failed,
                ];
                store.set(key, &BatchRecord { state: states[state].clone(), ..record(hour, part, 2) });
            }
        }
        let mut anew = View::default();
        store.items.values().for_each(|item| anew.put(item));
        let none = crate::view::Queue::default();
        let queue = |view: &View| format!("{:?}", view.queues.get(&job()).unwrap_or(&none));
        prop_assert_eq!(queue(&store.view), queue(&anew));
        let batches = |view: &View| view.batches.get(&job()).map_or(0, BTreeMap::len);
        prop_assert_eq!(batches(&store.view), batches(&anew));
        let open: Vec<WindowId> = anew.queues.get(&job()).unwrap_or(&none).open.keys().copied().collect();
        prop_assert!(open.iter().all(|window| anew.batches[&job()].keys().any(|(w, _)| w == window)));
    }
}

#[test]
fn only_the_report_of_the_worker_that_holds_a_batch_counts() {
    let mut store = planned(1, 1);
    let former = worker(&mut store, "a", 1);
    store.dispatch();
    // The batch was taken back and given to another, but the former holder's assignment is still there with its report.
    let at = (window(0).id(), Part::Partition(PartitionId(0)));
    let holder = WorkerId::new("b").unwrap();
    let batch = store.view.batches[&job()][&at].value.clone();
    store.set(
        keys::batch(&job(), at.0, at.1),
        &BatchRecord { state: BatchState::Assigned { worker: holder.clone() }, ..batch.clone() },
    );
    let assignment =
        Assignment { id: batch.id.clone(), task: batch.task.clone(), spec: spec(), skip: None, outcome: None };
    store.set(keys::assignment(&holder, &batch.id), &assignment);
    let late = Assignment { outcome: Some(committed()), ..assignment };
    store.set(keys::assignment(&former, &batch.id), &late);
    store.dispatch();
    let state = &store.view.batches[&job()][&at].value.state;
    assert_eq!(*state, BatchState::Assigned { worker: holder });
    assert!(!store.view.assignments.contains_key(&keys::assignment(&former, &batch.id)), "it is cleared away");
}

#[test]
fn assignments_with_large_specs_are_handed_out_in_several_writes() {
    let mut store = planned(100, 1);
    let mut large = spec();
    large.map = format!("SELECT 1 -- {}", "x".repeat(60_000));
    // Stored under the hash that the batches were planned with: what counts here is its size.
    store.set(keys::spec(&job(), &spec().hash()), &large);
    worker(&mut store, "a", 100);
    let write = assign(&store.view, &mut Turns::default(), now());
    let bytes = write.bytes();
    assert!((512 * 1024..1024 * 1024).contains(&bytes), "{bytes} bytes in one transaction");
    store.dispatch();
    assert_eq!(store.view.assignments.len(), 100);
}

#[test]
fn a_worker_that_still_has_a_batch_of_a_deleted_job_keeps_nobody_waiting() {
    let mut store = planned(2, 1);
    let worker = worker(&mut store, "a", 3);
    // The job of before had this batch too; the worker has not let go of it.
    let first = store.view.batches[&job()][&(window(0).id(), Part::Partition(PartitionId(0)))].value.clone();
    let assignment =
        Assignment { id: first.id.clone(), task: first.task.clone(), spec: spec(), skip: None, outcome: None };
    store.set(keys::assignment(&worker, &first.id), &assignment);
    store.dispatch();
    let state =
        |hour: i64| &store.view.batches[&job()][&(window(hour).id(), Part::Partition(PartitionId(0)))].value.state;
    assert_eq!(*state(0), BatchState::Pending);
    assert_eq!(*state(1), BatchState::Assigned { worker });
}

#[test]
fn reports_with_long_errors_are_taken_in_over_several_writes() {
    let mut store = planned(60, 1);
    worker(&mut store, "a", 60);
    store.dispatch();
    store.report(&Outcome::Failed { error: "x".repeat(60_000), retryable: false });
    let write = settle(&store.view, now());
    let bytes = write.bytes();
    assert!(bytes < 1024 * 1024, "{bytes} bytes in one transaction");
    store.dispatch();
    assert!(store.view.assignments.is_empty());
}

#[test]
fn a_worker_that_drains_gets_nothing_more() {
    let mut store = planned(1, 1);
    let id = worker(&mut store, "a", 1);
    let held = &store.view.workers[&id].value;
    let draining = WorkerRecord { draining: true, ..held.clone() };
    store.set(keys::worker(&id), &draining);
    store.dispatch();
    assert!(store.view.assignments.is_empty());
}
