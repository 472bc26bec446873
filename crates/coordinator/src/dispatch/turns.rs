//! Which job's turn it is.

use windrow_protocol::PartitionId;
use windrow_protocol::state::{JobRecord, Outcome, Summary};

use super::tests::{Store, planned, record, spec, worker};
use super::*;

/// With fewer slots than jobs a slot comes free while all have none: the last by name must not wait until the backlog of the
/// first is done.
#[test]
fn of_many_jobs_with_a_backlog_each_gets_a_turn_on_one_slot() {
    let mut store: Store = planned(9, 1);
    for name in ["k", "l"] {
        let name = JobName::new(name).unwrap();
        let job = JobRecord::new(name.clone(), spec(), Timestamp::MIN);
        store.set(keys::job(&name), &job);
        store.set(keys::spec(&name, &spec().hash()), &spec());
        for hour in 0..9 {
            let mut batch = record(hour, Part::Partition(PartitionId(0)), 1);
            batch.id.job = name.clone();
            store.set(keys::batch(&name, batch.id.window, batch.id.part), &batch);
        }
    }
    worker(&mut store, "a", 1);
    let mut turns = String::new();
    for _ in 0..6 {
        store.dispatch();
        let given: Vec<_> = store.view.assignments.values().map(|it| it.value.id.job.to_string()).collect();
        turns += &given.concat();
        store.report(&Outcome::Committed(Summary { rows: 1, bytes: 1, ..Summary::default() }));
    }
    assert_eq!(turns, "jkljkl");
}

/// A leader that has just begun knows of no turns, but of what runs.
#[test]
fn a_free_slot_goes_to_the_job_that_has_less_running() {
    let mut store: Store = planned(9, 1);
    worker(&mut store, "a", 2);
    store.dispatch();
    let late = JobName::new("k").unwrap();
    store.set(keys::job(&late), &JobRecord::new(late.clone(), spec(), Timestamp::MIN));
    store.set(keys::spec(&late, &spec().hash()), &spec());
    let mut batch = record(0, Part::Partition(PartitionId(0)), 1);
    batch.id.job = late.clone();
    store.set(keys::batch(&late, batch.id.window, batch.id.part), &batch);
    worker(&mut store, "b", 1);
    let write = assign(&store.view, &mut Turns::default(), Timestamp::MIN);
    store.write(write);
    let given = store.view.assignments.values().filter(|it| it.value.id.job == late);
    assert_eq!(given.count(), 1);
}
