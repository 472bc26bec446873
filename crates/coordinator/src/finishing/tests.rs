use windrow_protocol::WindowSpec;
use windrow_protocol::cut::Cursor;
use windrow_protocol::state::BatchState;

use super::*;
use crate::dispatch::tests::{Store, job, record, spec, window};

fn at(hour: i64) -> Timestamp {
    Timestamp::from_millis(hour * 3_600_000)
}

fn hourly() -> Calendar {
    WindowSpec::new("1h".parse().unwrap(), "UTC").calendar().unwrap()
}

/// Hour, until, windows and partitions of a step.
type Planned = (i64, i64, u64, Vec<i32>);

fn planned(from: i64, through: i64, batches: &[(i64, i32)]) -> (Vec<Planned>, Timestamp) {
    let calendar = hourly();
    let parts: Vec<_> =
        batches.iter().map(|(h, p)| (WindowId::Time(at(*h)), Part::Partition(PartitionId(*p)))).collect();
    let sealed = Sealed {
        calendar: &calendar,
        topic: TopicName::new("t").unwrap(),
        topic_id: TopicId::new("i").unwrap(),
        spec_hash: String::new(),
        generation: 1,
        from: at(from),
        through: at(through),
        partitions: [PartitionId(0), PartitionId(1)].into(),
        batches: by_window(parts.iter()),
    };
    let (plans, through) = plan(&sealed);
    let hours = |t: Timestamp| t.micros() / 3_600_000_000;
    let plans = plans
        .into_iter()
        .map(|p| (hours(p.window.start), hours(p.until), p.windows, p.partitions.iter().map(|p| p.0).collect()))
        .collect();
    (plans, through)
}

#[test]
fn each_sealed_window_has_one_step_and_empty_runs_are_one() {
    let (plans, through) = planned(2, 9, &[(3, 0), (3, 1), (4, 1), (9, 0)]);
    assert_eq!(plans, [(2, 3, 1, vec![]), (3, 4, 1, vec![0, 1]), (4, 5, 1, vec![1]), (5, 9, 4, vec![])]);
    assert_eq!(through, at(9));
}

#[test]
fn nothing_is_planned_before_all_partitions_are_sealed() {
    assert_eq!(planned(3, 3, &[(3, 0)]), (vec![], at(3)));
}

#[test]
fn a_gap_of_a_thousand_years_is_one_step() {
    let (plans, _) = planned(0, 8_766_000, &[(0, 0)]);
    assert_eq!(plans[1], (1, 8_766_000, 8_765_999, vec![]));
}

#[test]
fn a_long_backlog_is_planned_some_windows_at_a_time_in_order() {
    let windows: Vec<(i64, i32)> = (0..100).map(|hour| (hour, 0)).collect();
    let (plans, through) = planned(0, 100, &windows);
    assert_eq!((plans.len(), through), (40, at(40)));
    // Gaps in between count too.
    let windows: Vec<(i64, i32)> = (0..100).map(|hour| (2 * hour + 1, 0)).collect();
    let (plans, through) = planned(0, 200, &windows);
    assert_eq!((plans.len(), through), (40, at(40)));
}

/// A job over as many partitions, each sealed through an hour, with batches at (hour, partition).
fn sealed(through: &[i64], batches: &[(i64, i32)]) -> Store {
    let mut store = Store::default();
    for (partition, hour) in (0..).map(PartitionId).zip(through) {
        let topic_id = TopicId::new("i").unwrap();
        let (end, next_start) = Default::default();
        let cursor = Cursor { topic_id, sealed_through: at(*hour), end, next_start, pace: None };
        store.set(keys::cursor(&job(), partition), &cursor);
    }
    for (hour, partition) in batches {
        let part = Part::Partition(PartitionId(*partition));
        store.set(keys::batch(&job(), window(*hour).id(), part), &record(*hour, part, 1));
    }
    store
}

fn step_over(store: &Store, partitions: i32) -> Write {
    let record = JobRecord { generation: 7, ..JobRecord::new(job(), spec(), at(0)) };
    let id = TopicId::new("i").unwrap();
    let topic = TopicInfo::new(id, partitions);
    step(&store.view, &record, &hourly(), &topic)
}

fn progress(store: &Store) -> Progress {
    store.view.progress[&job()].value.clone()
}

#[test]
fn a_job_begins_with_its_first_window_and_nothing_is_planned_before_that_is_known() {
    for (through, batches, origin) in [(5, vec![], 5), (5, vec![(3, 0), (2, 0)], 2), (5, vec![(7, 0)], 5)] {
        let mut store = sealed(&[through], &batches);
        let write = step_over(&store, 1);
        assert_eq!(write.when, [Compare::Absent(keys::progress(&job()))]);
        store.write(write);
        let begun = Progress { origin: at(origin), finish_planned_through: at(origin), windows_complete: 0 };
        assert_eq!(progress(&store), begun);
    }
}

#[test]
fn a_job_waits_until_each_partition_has_a_cursor() {
    assert!(step_over(&sealed(&[5], &[]), 2).then.is_empty());
    assert!(!step_over(&sealed(&[5, 5], &[]), 2).then.is_empty());
}

#[test]
fn each_window_that_is_sealed_everywhere_gets_its_last_step_once() {
    let mut store = sealed(&[4, 6], &[(2, 0), (3, 1), (5, 1)]);
    let begun = Progress { origin: at(2), finish_planned_through: at(2), windows_complete: 9 };
    store.set(keys::progress(&job()), &begun);
    store.write(step_over(&store, 2));
    assert_eq!(progress(&store), Progress { finish_planned_through: at(4), ..begun });
    let steps: Vec<_> = store.view.batches[&job()].iter().filter(|((_, part), _)| *part == Part::Finish).collect();
    assert_eq!(steps.iter().map(|((window, _), _)| window.time()).collect::<Vec<_>>(), [Some(at(2)), Some(at(3))]);
    for (_, batch) in steps {
        assert_eq!(batch.value.state, BatchState::Pending);
        let Task::Finish(plan) = &batch.value.task else { panic!("a last step") };
        assert_eq!((plan.spec_hash.as_str(), plan.generation), (spec().hash().as_str(), 7));
    }
    assert!(step_over(&store, 2).then.is_empty(), "until more is sealed");
}

#[test]
fn last_steps_of_very_many_partitions_are_planned_over_several_writes() {
    let windows: Vec<(i64, i32)> = (0..40).map(|hour| (hour, 0)).collect();
    let mut store = sealed(&[40; 3_000], &windows);
    let begun = Progress { origin: at(0), finish_planned_through: at(0), windows_complete: 0 };
    store.set(keys::progress(&job()), &begun);
    let write = step_over(&store, 3_000);
    let steps = write.then.len() as i64 - 1;
    assert!((1..40).contains(&steps) && write.bytes() < 1024 * 1024, "{steps} steps of {} bytes", write.bytes());
    store.write(write);
    assert_eq!(progress(&store).finish_planned_through, at(steps), "the next write goes on there");
    store.write(step_over(&store, 3_000));
    assert_eq!(progress(&store).finish_planned_through, at(40));
}

#[test]
fn a_window_that_began_with_another_spec_ends_with_it() {
    let mut store = sealed(&[4], &[(2, 0), (3, 0)]);
    let (mut before, part) = (record(2, Part::Partition(PartitionId(0)), 1), Part::Partition(PartitionId(0)));
    before.task.run_with("before", 5);
    store.set(keys::batch(&job(), window(2).id(), part), &before);
    let begun = Progress { origin: at(2), finish_planned_through: at(2), windows_complete: 0 };
    store.set(keys::progress(&job()), &begun);
    store.write(step_over(&store, 1));
    let spec_of = |hour| {
        let Task::Finish(plan) = &store.view.batches[&job()][&(window(hour).id(), Part::Finish)].value.task else {
            panic!("a last step")
        };
        (plan.spec_hash.clone(), plan.generation)
    };
    assert_eq!(spec_of(2), ("before".to_owned(), 5));
    assert_eq!(spec_of(3), (spec().hash(), 7), "the job's own, at its generation now");
}
