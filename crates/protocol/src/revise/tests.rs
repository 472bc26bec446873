use proptest::prelude::*;

use super::*;
use crate::job::LatePolicy;
use crate::marker::{Input, MARKER_VERSION};
use crate::{AttemptId, Ledger, WindowSpec};

fn hour(hour: i64) -> Timestamp {
    Timestamp::from_millis(hour * 3_600_000)
}

fn window(at: i64) -> Window {
    Window::new(hour(at), hour(at + 1))
}

fn span(from: i64, until: i64) -> Span {
    Span { from: hour(from), until: hour(until) }
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange::new(Offset(start), Offset(end))
}

fn rule_of(policy: LatePolicy) -> LateRule {
    LateRule { policy, reach: crate::duration::Length::from_secs(86_400) }
}

fn ids() -> (JobName, TopicName, TopicId) {
    (JobName::new("j").unwrap(), TopicName::new("t").unwrap(), TopicId::new("i").unwrap())
}

/// A wish of readings of hours 3 and 5 that partitions 0 and 2 have had late.
fn late() -> (WishId, Wish) {
    let amends = |from, until| Amends { offsets: range(from, until), spans: vec![span(3, 4), span(5, 6)] };
    let (first, third) = (amends(40, 50), amends(70, 71));
    let wish = Wish::of_late([(PartitionId(0), &first), (PartitionId(2), &third)], hour(9));
    (WishId::Late(window(8).id()), wish.unwrap())
}

fn backfill() -> (WishId, Wish) {
    let spec = SpecRef { hash: "new".into(), generation: 2 };
    (WishId::Backfill(BackfillName::new("b").unwrap()), Wish::backfill(span(3, 6), spec, hour(9)))
}

fn ground(job: &(JobName, TopicName, TopicId), check: impl FnOnce(&Ground<'_>)) {
    let rules = BTreeMap::from([("old".to_owned(), rule_of(LatePolicy::Amend))]);
    check(&Ground {
        job: &job.0,
        topic: &job.1,
        topic_id: &job.2,
        partitions: (0..4).map(PartitionId).collect(),
        spec: SpecRef { hash: "now".into(), generation: 3 },
        late: rule_of(LatePolicy::Side),
        shift: Some("early".into()),
        rules: &rules,
    });
}

fn first_marker(partition: i32) -> Marker {
    let (job, topic, topic_id) = ids();
    let plan = Plan {
        topic,
        topic_id,
        partition: PartitionId(partition),
        window: window(3),
        read: range(10, 30),
        owned: range(15, 30),
        lost: None,
        sealed_by: SealedBy::Idle,
        revision: Revision(0),
        spec_hash: "old".into(),
        generation: 1,
        revises: None,
    };
    Marker {
        version: MARKER_VERSION,
        job,
        plan,
        attempt: AttemptId::new("a").unwrap(),
        ledger: Ledger::default(),
        files: vec![],
        quarantine_reasons: vec![],
        absent: vec![],
        skipped: None,
        amends: None,
        carried: None,
        damaged: vec![],
        committed_at: hour(5),
    }
}

/// Hour 3 with markers of partitions 0 and 1.
fn known() -> Known {
    let (job, topic, topic_id) = ids();
    let inputs = |p: i32| Input { partition: PartitionId(p), attempt: AttemptId::new("a").unwrap(), skipped: None };
    let plan = FinishPlan {
        topic,
        topic_id,
        window: window(3),
        until: hour(4),
        windows: 1,
        shift: None,
        partitions: vec![PartitionId(0), PartitionId(1)],
        empty: vec![PartitionId(2), PartitionId(3)],
        revision: Revision(0),
        revisions: BTreeMap::new(),
        spec_hash: "mended".into(),
        generation: 2,
    };
    let complete = Complete {
        version: MARKER_VERSION,
        job,
        plan,
        attempt: AttemptId::new("c").unwrap(),
        files: vec![],
        rows: 0,
        ledger: Ledger::default(),
        inputs: vec![inputs(0), inputs(1)],
        skipped: None,
        damaged: vec![],
        committed_at: hour(5),
    };
    let markers = (0..2).map(|p| (PartitionId(p), first_marker(p))).collect();
    Known { complete: Some(complete), markers }
}

fn split(batches: Vec<BatchRecord>) -> (Vec<Plan>, FinishPlan) {
    let mut plans = Vec::new();
    let mut last = None;
    for batch in batches {
        assert_eq!(batch.id.revision, batch.task.revision());
        match batch.task {
            Task::Map(plan) => plans.push(plan),
            Task::Finish(plan) => last = Some(plan),
        }
    }
    (plans, last.expect("a last step"))
}

#[test]
fn a_partition_with_late_readings_reads_them_too_and_owns_what_it_owned() {
    let (id, wish) = late();
    ground(&ids(), |ground| {
        let (plans, last) = split(revise(&id, &wish, window(3), &known(), ground));
        assert_eq!(plans.len(), 2, "partition 1 has had none late");
        let first = &plans[0];
        assert_eq!((first.read, first.owned, first.more()), (range(10, 30), range(15, 30), &[range(40, 50)][..]));
        assert_eq!((first.revision, first.spec_hash.as_str(), first.generation), (Revision(1), "old", 1));
        let revises = first.revises.clone().unwrap();
        assert_eq!((revises.base, revises.cause), (Some(Revision(0)), id.clone()));
        assert_eq!(revises.late, rule_of(LatePolicy::Amend), "as the first result has treated its own");
        assert_eq!(last.partitions, [0, 1, 2].map(PartitionId));
        assert_eq!(last.empty, [PartitionId(3)]);
        assert_eq!([0, 1, 2].map(|p| last.revision_of(PartitionId(p)).0), [1, 0, 1]);
        assert_eq!(last.spec_hash, "mended");
    });
}

#[test]
fn a_partition_that_had_no_offset_for_the_window_reads_the_late_ones_alone_and_owns_none() {
    let (id, wish) = late();
    ground(&ids(), |ground| {
        let (plans, _) = split(revise(&id, &wish, window(3), &known(), ground));
        let third = &plans[1];
        assert_eq!((third.partition, third.revises.as_ref().unwrap().base), (PartitionId(2), None));
        assert!(third.read.is_empty() && third.owned.is_empty());
        assert_eq!(third.ranges().collect::<Vec<_>>(), [range(70, 71)]);
        assert_eq!(third.spec_hash, "old", "a window has one spec");
    });
}

#[test]
fn a_window_in_a_run_of_empty_ones_becomes_a_result_of_its_own_that_the_run_has_counted() {
    let (id, wish) = late();
    ground(&ids(), |ground| {
        let (plans, last) = split(revise(&id, &wish, window(5), &Known::default(), ground));
        assert_eq!(plans.iter().map(|plan| plan.spec_hash.as_str()).collect::<Vec<_>>(), ["now", "now"]);
        assert_eq!((last.revision, last.windows, last.until), (Revision(1), 0, hour(6)));
        assert_eq!(
            (last.partitions, last.empty),
            (vec![PartitionId(0), PartitionId(2)], [1, 3].map(PartitionId).into())
        );
        assert_eq!(last.shift.as_deref(), Some("early"));
    });
}

#[test]
fn a_window_that_was_empty_is_of_one_spec_though_the_job_has_changed_since() {
    let (id, wish) = late();
    let mut known = Known { markers: BTreeMap::new(), ..known() };
    let complete = known.complete.as_mut().unwrap();
    complete.plan.empty.splice(0..0, std::mem::take(&mut complete.plan.partitions));
    complete.inputs.clear();
    ground(&ids(), |ground| {
        let (plans, last) = split(revise(&id, &wish, window(3), &known, ground));
        assert!(plans.iter().all(|plan| plan.spec_hash == "now"), "{plans:?}");
        assert_eq!(last.spec_hash, "now", "or its reduce would look for parts that nobody makes");
    });
}

#[test]
fn the_next_late_readings_are_read_beside_those_before() {
    let (id, wish) = late();
    let mut known = known();
    ground(&ids(), |ground| {
        let (plans, last) = split(revise(&id, &wish, window(3), &known, ground));
        for plan in plans {
            let marker = Marker { plan: plan.clone(), ..first_marker(0) };
            known.markers.insert(plan.partition, marker);
        }
        known.complete.as_mut().unwrap().plan = last;
        let more = Amends { offsets: range(90, 95), spans: vec![span(3, 4)] };
        let wish = Wish::of_late([(PartitionId(0), &more)], hour(20)).unwrap();
        let (plans, last) = split(revise(&id, &wish, window(3), &known, ground));
        assert_eq!(plans.len(), 1);
        assert_eq!(plans[0].more(), [range(40, 50), range(90, 95)]);
        assert_eq!(plans[0].revises.as_ref().unwrap().base, Some(Revision(1)));
        assert_eq!([0, 1, 2].map(|p| last.revision_of(PartitionId(p)).0), [2, 0, 1]);
    });
}

#[test]
fn a_backfill_runs_its_spec_on_all_partitions_and_leaves_empty_windows_alone() {
    let (id, wish) = backfill();
    ground(&ids(), |ground| {
        let (plans, last) = split(revise(&id, &wish, window(3), &known(), ground));
        assert_eq!(plans.iter().map(|plan| plan.partition.0).collect::<Vec<_>>(), [0, 1]);
        assert!(plans.iter().all(|plan| plan.spec_hash == "new" && plan.generation == 2 && plan.more().is_empty()));
        assert!(plans.iter().all(|plan| plan.late_rule(&spec()).policy == LatePolicy::Amend), "as it was");
        assert_eq!((last.spec_hash.as_str(), last.revision), ("new", Revision(1)));
        assert_eq!(revise(&id, &wish, window(4), &Known::default(), ground), []);
    });
}

fn spec() -> crate::JobSpec {
    serde_json::from_str(r#"{"source": {"topic": "t"}, "window": {"every": "1h"}, "map": "SELECT 1"}"#).unwrap()
}

#[test]
fn what_was_given_up_has_amended_nothing_so_a_backfill_sets_its_late_readings_aside() {
    let (id, wish) = backfill();
    let mut known = known();
    for marker in known.markers.values_mut() {
        marker.skipped = Some("bad".into());
    }
    ground(&ids(), |ground| {
        let (plans, _) = split(revise(&id, &wish, window(3), &known, ground));
        assert!(plans.iter().all(|plan| plan.late_rule(&spec()).policy == LatePolicy::Side));
    });
}

#[test]
fn a_wish_goes_from_window_to_window_and_over_what_lies_between() {
    let calendar = WindowSpec::new("1h".parse().unwrap(), "UTC").calendar().unwrap();
    let (_, mut wish) = late();
    let mut passed = Vec::new();
    while let Some(window) = wish.next_window(&calendar) {
        assert!(!wish.is_done() && passed.len() < 10);
        passed.push(window.start);
        wish.pass(window.end, true);
    }
    assert_eq!(passed, [hour(3), hour(5)]);
    assert!(wish.is_done());
    let (_, mut wish) = backfill();
    wish.refuse(window(3), "gone".into(), 7);
    assert_eq!((wish.next_window(&calendar), wish.refused), (Some(window(4)), 1));
    assert_eq!(wish.refusals[0].lost_offsets, 7);
}

#[test]
fn a_wish_counts_what_became_work_and_what_was_refused_and_says_why_of_the_first_few() {
    let (_, mut wish) = backfill();
    wish.pass(hour(4), true);
    wish.pass(hour(4), true);
    wish.pass(hour(5), false);
    for _ in 0..MAX_REFUSALS + 5 {
        wish.refuse(window(4), "gone".into(), 7);
    }
    assert_eq!((wish.planned, wish.refused, wish.refusals.len()), (2, MAX_REFUSALS as u64 + 5, MAX_REFUSALS));
    assert_eq!(wish.next, hour(5), "it never goes back");
}

#[test]
fn a_span_holds_the_windows_that_start_in_it() {
    let held: Vec<i64> = (0..9).filter(|at| span(3, 5).holds(hour(*at))).collect();
    assert_eq!(held, [3, 4]);
}

#[test]
fn of_too_many_spans_those_that_are_nearest_to_each_other_become_one() {
    let spans = vec![span(0, 1), span(3, 4), span(5, 6), span(9, 10)];
    assert_eq!(merged(spans.clone(), 4), spans);
    assert_eq!(merged(spans.clone(), 3), [span(0, 1), span(3, 6), span(9, 10)]);
    assert_eq!(merged(spans, 2), [span(0, 6), span(9, 10)]);
}

#[test]
fn what_the_log_has_dropped_of_a_plan_is_named() {
    let (id, wish) = late();
    ground(&ids(), |ground| {
        let (plans, _) = split(revise(&id, &wish, window(3), &known(), ground));
        assert_eq!(lost(&plans[0], Offset(10)), None);
        assert_eq!(lost(&plans[0], Offset(12)), Some(range(10, 12)));
        assert_eq!(lost(&plans[0], Offset(99)), Some(range(10, 50)));
        assert_eq!(lost(&plans[1], Offset(70)), None, "it reads nothing before");
        assert_eq!(lost(&plans[1], Offset(71)), Some(range(70, 71)));
    });
}

#[test]
fn names_of_wishes_round_trip() {
    for (id, _) in [late(), backfill()] {
        assert_eq!(id.to_string().parse::<WishId>().unwrap(), id);
        assert_eq!(serde_json::from_value::<WishId>(serde_json::to_value(&id).unwrap()).unwrap(), id);
    }
    for bad in ["late-x", "backfill-", "backfill-A", "other"] {
        assert!(bad.parse::<WishId>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_batch_names_every_window_that_it_touches_in_few_spans(touched in prop::collection::vec((0i64..5_000, 0i64..1_000), 1..300)) {
        let mut amends = None;
        for (at, offset) in &touched {
            Amends::add(&mut amends, Offset(*offset), window(*at));
        }
        let Amends { offsets, spans } = amends.unwrap();
        prop_assert!(spans.len() <= MAX_SPANS);
        prop_assert!(spans.windows(2).all(|pair| pair[0].until < pair[1].from));
        for (at, offset) in &touched {
            prop_assert!(offsets.contains(Offset(*offset)));
            prop_assert!(spans.iter().any(|span| span.from <= hour(*at) && hour(at + 1) <= span.until));
        }
        let (first, last) = (touched.iter().map(|t| t.0).min().unwrap(), touched.iter().map(|t| t.0).max().unwrap());
        prop_assert_eq!((spans[0].from, spans[spans.len() - 1].until), (hour(first), hour(last + 1)));
    }

    #[test]
    fn as_long_as_they_are_few_spans_hold_touched_windows_alone(touched in prop::collection::btree_set(0i64..500, 1..60)) {
        let mut amends = None;
        touched.iter().for_each(|at| Amends::add(&mut amends, Offset(0), window(*at)));
        let held = |at: i64| amends.as_ref().unwrap().spans.iter().any(|span| span.from <= hour(at) && hour(at) < span.until);
        prop_assert!((0..500).all(|at| held(at) == touched.contains(&at)));
    }

    #[test]
    fn what_was_added_is_what_was_not_there(
        before in prop::collection::vec((0i64..60, 0i64..6), 0..8), more in prop::collection::vec((0i64..60, 0i64..6), 0..8)
    ) {
        let ranges = |list: &[(i64, i64)]| list.iter().fold(Vec::new(), |sum, (at, n)| joined(&sum, Some(range(*at, at + n))));
        let (before, all) = (ranges(&before), ranges(&[before.clone(), more].concat()));
        let added = added(&all, &before);
        let holds = |list: &[OffsetRange], at| list.iter().any(|range| range.contains(Offset(at)));
        prop_assert!((-1..70).all(|at| holds(&added, at) == (holds(&all, at) && !holds(&before, at))));
        for list in [&added, &all] {
            prop_assert!(list.iter().all(|range| !range.is_empty()));
        }
        prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start), "what touches is one");
    }
}
