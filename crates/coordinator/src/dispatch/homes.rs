//! Which worker reads which partition.

use windrow_protocol::plan::Part;
use windrow_protocol::state::{Task, keys};
use windrow_protocol::{Offset, PartitionId};

use super::home;
use super::tests::{job, planned, record, worker};

#[test]
fn windows_of_a_partition_are_read_by_one_worker_while_it_has_room() {
    let mut store = planned(20, 1);
    for hour in 0..20 {
        let mut record = record(hour, Part::Partition(PartitionId(0)), 1);
        let Task::Map(plan) = &mut record.task else { panic!("a map") };
        plan.read.end = Offset(10);
        store.set(keys::batch(&job(), record.id.window, record.id.part), &record);
    }
    for name in ["a", "b", "c"] {
        worker(&mut store, name, 20);
    }
    store.dispatch();
    let workers: std::collections::BTreeSet<_> =
        store.view.assignments.keys().map(|key| key.split('/').nth(4).map(str::to_owned)).collect();
    assert_eq!((store.view.assignments.len(), workers.len()), (20, 1));
}

#[test]
fn a_slot_that_becomes_free_goes_to_a_partition_that_its_worker_reads_though_another_one_comes_first() {
    // One of the two does not read the first partition.
    for (free, busy) in [("a", "b"), ("b", "a")] {
        let mut store = planned(1, 16);
        let id = worker(&mut store, free, 1);
        worker(&mut store, busy, 0);
        store.dispatch();
        let given: Vec<_> = store.view.assignments.values().map(|given| home(&store.view, &given.value.task)).collect();
        assert_eq!(given, [Some(id)]);
    }
}
