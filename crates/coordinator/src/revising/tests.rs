use serde_json::json;
use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::plan::BatchId;
use windrow_protocol::revise::{Amends, Span};
use windrow_protocol::state::Progress;
use windrow_protocol::{OffsetRange, TopicName};

use super::*;
use crate::dispatch::tests::{Store as Meta, job, record, spec, window};
use crate::fixture;

const P0: Part = Part::Partition(PartitionId(0));

/// A job with hourly windows, the markers of those that are complete, and what is stored of it.
struct World {
    parts: Parts,
    job: JobRecord,
    meta: Meta,
    topic: TopicInfo,
    folder: tempfile::TempDir,
}

fn hour(hour: i64) -> Timestamp {
    window(hour).start
}

impl World {
    /// A topic of so many partitions, of which each complete window has a batch on all; hours 0 to 100 are over.
    async fn new(partitions: i32, complete: impl IntoIterator<Item = i64>) -> Self {
        let (folder, parts) = fixture::parts();
        let name = TopicName::new("t").unwrap();
        let new = NewTopic { name: name.clone(), partitions, replication: 1, retention_ms: None, max_ahead_ms: None };
        parts.log.create_topic(&new).await.unwrap();
        let topic = parts.log.topic(&name).await.unwrap();
        let job = JobRecord::new(job(), spec(), hour(0));
        let mut meta = Meta::default();
        meta.set(keys::spec(&job.name, &spec().hash()), &spec());
        let mut world = Self { parts, job, meta, topic, folder };
        world.planned_through(100);
        for of in complete {
            world.complete(of, 0).await;
        }
        world
    }

    fn planned_through(&mut self, of: i64) {
        let progress = Progress { origin: hour(0), finish_planned_through: hour(of), windows_complete: 0 };
        self.meta.set(keys::progress(&self.job.name), &progress);
    }

    /// The markers of an hour; its partitions have been run again for so many ranges of late offsets.
    async fn complete(&self, of: i64, late: i64) {
        let (store, partitions) = (&self.parts.store, self.topic.partitions);
        let common = json!({"version": 1, "job": "j", "attempt": "a", "files": [], "committedAt": hour(of + 1)});
        let with = |more: serde_json::Value| {
            let mut all = common.as_object().unwrap().clone();
            all.extend(more.as_object().unwrap().clone());
            serde_json::Value::Object(all)
        };
        let range = json!({"start": of * 10, "end": of * 10 + 10});
        let more: Vec<_> = (0..late).map(|at| json!({"start": 1_000 + at * 10, "end": 1_001 + at * 10})).collect();
        for partition in 0..partitions {
            let plan = json!({
                "topic": "t", "topicId": self.topic.id, "partition": partition, "revision": 0, "generation": 1,
                "specHash": spec().hash(), "window": window(of), "sealedBy": "watermark", "read": range, "owned": range,
                "revises": {"base": null, "cause": "backfill-b", "more": more, "late": {"policy": "side", "reach": "7d"}},
            });
            let marker: Marker = serde_json::from_value(with(json!({"plan": plan, "ledger": {}}))).unwrap();
            let part = Part::Partition(PartitionId(partition));
            let path = paths::marker(&self.job.name, window(of).id(), part, Revision(0));
            store.commit(&path, &marker).await.unwrap();
        }
        let plan = json!({
            "topic": "t", "topicId": self.topic.id, "window": window(of), "until": hour(of + 1), "windows": 1,
            "partitions": (0..partitions).collect::<Vec<_>>(), "empty": [], "revision": 0, "specHash": spec().hash(),
            "generation": 1,
        });
        let complete = with(json!({"plan": plan, "ledger": {}, "rows": 0, "inputs": []}));
        let complete: Complete = serde_json::from_value(complete).unwrap();
        store
            .commit(&paths::marker(&self.job.name, window(of).id(), Part::Finish, Revision(0)), &complete)
            .await
            .unwrap();
    }

    /// A backfill of these hours, by a spec of this hash.
    fn wants_by(&mut self, name: &str, from: i64, until: i64, hash: &str) {
        let spec = SpecRef { hash: hash.to_owned(), generation: 2 };
        let wish = Wish::backfill(Span { from: hour(from), until: hour(until) }, spec, hour(0));
        self.meta.set(keys::wish(&self.job.name, &id(name)), &wish);
    }

    fn wants(&mut self, from: i64, until: i64) {
        self.wants_by("b", from, until, &spec().hash());
    }

    /// A first result in flight.
    fn fly(&mut self, of: i64, part: Part) {
        self.meta.set(keys::batch(&self.job.name, window(of).id(), part), &record(of, part, 1));
    }

    async fn look(&self) -> Vec<Write> {
        let wishes = Wishes::of(&self.meta.view, &self.job.name);
        let (calendar, job) = (self.job.spec.window.calendar().unwrap(), &self.job);
        let revising = Revising { parts: &self.parts, job, calendar: &calendar, topic: &self.topic, wishes: &wishes };
        revising.step().await
    }

    /// One step, taken in: how many writes it made.
    async fn step(&mut self) -> usize {
        let writes = self.look().await;
        let count = writes.len();
        writes.into_iter().for_each(|write| self.meta.write(write));
        count
    }

    fn wish(&self) -> &Wish {
        &self.meta.view.wishes[&self.job.name][&id("b")].value
    }

    /// Hour and part of each batch of a revision.
    fn again(&self) -> Vec<(i64, Part)> {
        let batches = self.meta.view.batches.get(&self.job.name).into_iter().flatten();
        let again = batches.filter(|(_, batch)| batch.value.id.revision == Revision(1));
        again.map(|((window, part), _)| (window.time().unwrap().micros() / 3_600_000_000, *part)).collect()
    }

    fn hours_again(&self) -> Vec<i64> {
        self.again().into_iter().filter(|(_, part)| *part == Part::Finish).map(|(of, _)| of).collect()
    }

    /// All batches of an hour are done with.
    fn end(&mut self, of: i64) {
        let prefix = format!("{}{}/", keys::batches(&self.job.name), window(of).id());
        self.meta.write(Write { when: vec![], then: vec![Op::DeletePrefix { prefix }] });
    }

    async fn lose(&self, of: i64, part: Part) {
        let path = paths::marker(&self.job.name, window(of).id(), part, Revision(0));
        self.parts.store.delete(vec![path]).await.unwrap();
    }

    async fn truncate(&self, before: i64) {
        let record = |_| Append { timestamp: hour(0), key: None, payload: "x".into() };
        let (topic, of) = (&self.job.spec.source.topic, PartitionId(0));
        self.parts.log.append(topic, of, (0..before).map(record).collect()).await.unwrap();
        self.parts.log.truncate(topic, of, Offset(before)).await.unwrap();
    }
}

fn id(name: &str) -> WishId {
    format!("backfill-{name}").parse().unwrap()
}

#[tokio::test]
async fn late_readings_become_a_revision_of_their_window_and_with_it_their_wish_goes() {
    let mut world = World::new(2, [3]).await;
    let spans = vec![Span { from: hour(3), until: hour(4) }];
    let met = Amends { offsets: OffsetRange::new(Offset(70), Offset(75)), spans };
    let wish = Wish::of_late([(PartitionId(1), &met)], hour(9)).unwrap();
    let id = WishId::Late(window(8).id());
    world.meta.set(keys::wish(&world.job.name, &id), &wish);
    assert_eq!(world.step().await, 1);
    assert_eq!(world.again(), [(3, Part::Partition(PartitionId(1))), (3, Part::Finish)]);
    assert!(world.meta.view.wishes[&world.job.name].is_empty());
}

#[tokio::test]
async fn late_readings_are_wished_for_until_all_their_windows_are_planned() {
    let mut world = World::new(1, [3]).await;
    let spans = vec![Span { from: hour(3), until: hour(4) }, Span { from: hour(5), until: hour(6) }];
    let met = Amends { offsets: OffsetRange::new(Offset(70), Offset(75)), spans };
    let wish = Wish::of_late([(PartitionId(0), &met)], hour(9)).unwrap();
    let id = WishId::Late(window(8).id());
    world.meta.set(keys::wish(&world.job.name, &id), &wish);
    world.fly(5, P0);
    world.step().await;
    let left = &world.meta.view.wishes[&world.job.name][&id].value;
    assert_eq!((left.next, left.planned), (hour(4), 1));
    world.end(5);
    world.step().await;
    assert_eq!(world.hours_again(), [3, 5]);
    assert!(world.meta.view.wishes[&world.job.name].is_empty());
}

#[tokio::test]
async fn a_backfill_runs_what_is_complete_goes_over_the_gaps_and_stays_to_be_seen() {
    let mut world = World::new(1, [3, 5, 9]).await;
    world.wants(2, 9);
    world.step().await;
    assert_eq!(world.again(), [(3, P0), (3, Part::Finish), (5, P0), (5, Part::Finish)]);
    assert_eq!((world.wish().planned, world.wish().refused, world.wish().is_done()), (2, 0, true));
    assert_eq!(world.step().await, 0, "what is done with is left alone");
}

#[tokio::test]
async fn a_paused_wish_goes_no_further() {
    let mut world = World::new(1, [3]).await;
    world.wants(3, 4);
    let paused = Wish { paused: true, ..world.wish().clone() };
    world.meta.set(keys::wish(&world.job.name, &id("b")), &paused);
    assert_eq!(world.step().await, 0);
}

#[tokio::test]
async fn a_window_whose_first_result_is_not_there_yet_is_waited_for() {
    let mut world = World::new(1, [3]).await;
    world.wants(3, 6);
    world.planned_through(3);
    assert_eq!(world.step().await, 0, "its last step is not planned");
    world.planned_through(4);
    world.fly(4, P0);
    world.step().await;
    assert_eq!((world.hours_again(), world.wish().next), (vec![3], hour(4)));
    world.planned_through(6);
    world.fly(4, Part::Finish);
    assert_eq!(world.step().await, 0, "it is in flight");
    world.complete(4, 0).await;
    world.end(4);
    world.step().await;
    assert_eq!((world.hours_again(), world.wish().is_done()), (vec![3, 4], true));
}

#[tokio::test]
async fn of_two_wishes_one_gets_a_window_first_and_the_other_after_it() {
    let mut world = World::new(1, [3]).await;
    world.wants(3, 4);
    world.wants_by("c", 3, 4, &spec().hash());
    assert_eq!(world.step().await, 1);
    assert_eq!((world.wish().planned, world.again().len()), (1, 2));
    world.end(3);
    assert_eq!(world.step().await, 1);
}

#[tokio::test]
async fn some_windows_are_run_again_at_a_time() {
    let mut world = World::new(1, 0..20).await;
    world.wants(0, 20);
    // First results are not counted.
    (50..60).for_each(|of| world.fly(of, P0));
    world.step().await;
    assert_eq!((world.hours_again().len(), world.wish().next), (16, hour(16)));
    assert_eq!(world.step().await, 0);
    world.end(3);
    world.step().await;
    assert_eq!((world.hours_again().len(), world.wish().next), (16, hour(17)));
}

#[tokio::test]
async fn windows_that_are_parked_hold_up_no_others() {
    let mut world = World::new(1, 0..20).await;
    world.wants(0, 20);
    world.step().await;
    assert_eq!(world.hours_again().len(), 16);
    for of in 0..16 {
        let key = keys::batch(&world.job.name, window(of).id(), P0);
        let mut batch = world.meta.view.batches[&world.job.name][&(window(of).id(), P0)].value.clone();
        batch.state = BatchState::Failed;
        world.meta.set(key, &batch);
    }
    world.step().await;
    assert_eq!(world.hours_again().len(), 20);
}

#[tokio::test]
async fn windows_without_a_batch_take_no_room() {
    let mut world = World::new(1, [20]).await;
    let partitions = std::mem::replace(&mut world.topic.partitions, 0);
    for of in 0..20 {
        world.complete(of, 0).await;
    }
    world.topic.partitions = partitions;
    world.wants(0, 21);
    world.step().await;
    assert_eq!((world.hours_again(), world.wish().planned), (vec![20], 1));
}

#[tokio::test]
async fn a_window_that_does_not_fit_one_wishs_write_is_left_to_others() {
    let mut world = World::new(119, [3, 4]).await;
    world.wants(3, 5);
    world.wants_by("c", 4, 5, &spec().hash());
    assert_eq!(world.step().await, 2);
    assert_eq!((world.hours_again(), world.wish().next), (vec![3, 4], hour(4)));
}

#[tokio::test]
async fn a_window_that_cannot_be_run_again_is_refused_and_the_next_goes_on() {
    for lost in [P0, Part::Finish] {
        let mut world = World::new(1, [3, 4]).await;
        world.wants(3, 5);
        if lost == Part::Finish {
            let path = paths::marker(&world.job.name, window(3).id(), lost, Revision(0));
            world.lose(3, lost).await;
            let put = json!({"version": 1, "of": "something else"});
            let expired = serde_json::to_vec(&put).unwrap();
            std::fs::write(world.folder.path().join("store").join(path), expired).unwrap();
        } else {
            world.lose(3, lost).await;
        }
        world.step().await;
        assert_eq!((world.hours_again(), world.wish().refused), (vec![4], 1));
        assert!(world.wish().refusals[0].reason.contains("its result is damaged"), "{:?}", world.wish());
    }
}

/// Of two backfills one may wait, or be paused, while the job changes and the other runs.
#[tokio::test]
async fn a_backfill_does_not_replace_what_a_later_change_of_the_job_has_computed() {
    let mut world = World::new(1, [3]).await;
    let older = JobSpec { map: "SELECT 2".to_owned(), ..spec() };
    world.meta.set(keys::spec(&world.job.name, &older.hash()), &older);
    let backfill =
        |hash: String| Wish::backfill(Span { from: hour(3), until: hour(4) }, SpecRef { hash, generation: 0 }, hour(0));
    world.meta.set(keys::wish(&world.job.name, &id("b")), &backfill(older.hash()));
    world.step().await;
    assert_eq!((world.again(), world.wish().refused), (vec![], 1));
    let reason = &world.wish().refusals[0].reason;
    assert_eq!(reason, "it was computed by generation 1 of the job, and this backfill is of generation 0");
    world.meta.set(keys::wish(&world.job.name, &id("b")), &backfill(spec().hash()));
    world.step().await;
    assert_eq!((world.hours_again(), world.wish().refused), (vec![3], 0), "a change that was taken back");
}

#[tokio::test]
async fn what_retention_has_taken_is_refused() {
    let mut world = World::new(1, [3, 4]).await;
    let expired = Expired { through: Some(hour(4)), ..Expired::default() };
    world.parts.store.expire(&world.job.name, 1, &expired).await.unwrap();
    world.wants(3, 5);
    world.step().await;
    assert_eq!(world.hours_again(), [4]);
    assert_eq!(world.wish().refusals[0].reason, "its retention has ended");
}

#[tokio::test]
async fn a_backfill_of_which_the_log_has_dropped_a_part_is_refused_with_the_number_of_offsets() {
    let mut world = World::new(1, [3, 4]).await;
    world.truncate(35).await;
    world.wants(3, 5);
    world.step().await;
    assert_eq!(world.hours_again(), [4]);
    let refusal = &world.wish().refusals[0];
    assert_eq!((refusal.window, refusal.lost_offsets), (window(3).id(), 5));
    assert!(refusal.reason.contains("offsets [30, 35) of partition 0"), "{}", refusal.reason);
}

#[tokio::test]
async fn a_result_does_not_move_to_another_dataset() {
    let mut world = World::new(1, [3]).await;
    let reduced = JobSpec { reduce: Some("SELECT 2".into()), ..spec() };
    world.meta.set(keys::spec(&world.job.name, &reduced.hash()), &reduced);
    world.wants_by("b", 3, 4, &reduced.hash());
    world.step().await;
    assert_eq!((world.again(), world.wish().refused), (vec![], 1));
    assert!(world.wish().refusals[0].reason.contains("without a reduce, and the job now has one"));
    world.wants_by("b", 3, 4, &spec().hash());
    world.step().await;
    assert_eq!(world.hours_again(), [3], "neither has one");
}

#[tokio::test]
async fn a_window_of_many_partitions_is_planned_over_several_writes_its_last_step_at_the_end() {
    for damaged in [false, true] {
        let mut world = World::new(130, [3, 4]).await;
        world.wants(3, 5);
        let write = world.look().await.pop().unwrap();
        assert_eq!((write.when.len(), write.then.len()), (121, 121), "as many as fit, and the wish");
        world.meta.write(write);
        assert_eq!((world.again().len(), world.wish().next, world.wish().planned), (120, hour(3), 0));
        // What is planned in part must be planned whole, also when the log has dropped some of it since.
        world.truncate(35).await;
        if damaged {
            world.lose(3, P0).await;
            assert_eq!(world.step().await, 0, "nothing of it is refused: it waits for somebody to look");
            continue;
        }
        world.wants_by("a", 3, 4, &spec().hash());
        world.step().await;
        let planned = world.again();
        assert_eq!(planned.iter().filter(|(of, _)| *of == 3).count(), 131);
        assert_eq!((planned.len(), world.wish().next, world.wish().planned), (131 + 109, hour(4), 1));
    }
}

#[tokio::test]
async fn a_window_that_was_begun_is_planned_whole_though_there_is_no_room() {
    let mut world = World::new(130, [3]).await;
    world.wants(3, 4);
    world.step().await;
    for of in 50..66 {
        let mut record = record(of, P0, 1);
        record.id.revision = Revision(1);
        world.meta.set(keys::batch(&world.job.name, window(of).id(), P0), &record);
    }
    world.step().await;
    assert_eq!((world.hours_again(), world.wish().is_done()), (vec![3], true));
}

#[tokio::test]
async fn large_plans_are_written_in_several_writes() {
    let mut world = World::new(40, []).await;
    world.complete(3, 1_000).await;
    world.wants(3, 4);
    let write = world.look().await.pop().unwrap();
    let bytes = write.bytes();
    assert!((512 * 1024..1024 * 1024).contains(&bytes), "{bytes} bytes in one transaction");
    while world.step().await > 0 {}
    assert_eq!((world.again().len(), world.wish().planned), (41, 1));
}

#[tokio::test]
async fn of_a_window_only_the_markers_of_partitions_that_run_again_are_read_and_one_at_least() {
    let world = World::new(3, [3]).await;
    let late = |partition| {
        let met = Amends { offsets: OffsetRange::default(), spans: vec![Span { from: hour(3), until: hour(4) }] };
        Wish::of_late([(PartitionId(partition), &met)], hour(9)).unwrap()
    };
    let read = async |of: i64, partition| {
        let known = known(&world.parts.store, &world.job.name, window(of).id(), &late(partition)).await.unwrap();
        known.markers.keys().map(|partition| partition.0).collect::<Vec<_>>()
    };
    assert_eq!(read(3, 1).await, [1]);
    assert_eq!(read(3, 7).await, [0], "one tells the spec of all");
    assert_eq!(read(4, 1).await, Vec::<i32>::new(), "within a run of empty windows");
}

#[test]
fn batches_of_one_wish_are_not_taken_for_anothers() {
    let mut meta = Meta::default();
    let mut batch = record(3, P0, 1);
    batch.id = BatchId { revision: Revision(1), ..batch.id };
    if let Task::Map(plan) = &mut batch.task {
        let late = spec().late_rule();
        plan.revises = Some(windrow_protocol::plan::Revises { base: None, cause: id("b"), more: vec![], late });
    }
    meta.set(keys::batch(&job(), window(3).id(), P0), &batch);
    assert!(Wishes::of(&meta.view, &job()).flying.is_empty(), "nothing is looked for while there is no wish");
    let spec = SpecRef { hash: String::new(), generation: 1 };
    let wish = Wish::backfill(Span { from: hour(3), until: hour(4) }, spec, hour(0));
    meta.set(keys::wish(&job(), &id("b")), &wish);
    let flying = &Wishes::of(&meta.view, &job()).flying[&window(3).id()];
    let expected = Flying { parts: [P0].into(), cause: Some(id("b")), revision: Revision(1), parked: false };
    assert_eq!(*flying, expected);
}
