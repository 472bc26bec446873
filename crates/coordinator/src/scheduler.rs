//! Which batch goes to which worker: a problem in, a solution out, no I/O.

use std::collections::BTreeMap;

use windrow_protocol::WorkerId;

/// Who has room, and what waits.
#[derive(Debug, Default)]
pub struct Problem<B> {
    /// Free slots.
    pub free: BTreeMap<WorkerId, u32>,
    /// Per job the batches that may run, oldest window first.
    pub waiting: Vec<Vec<B>>,
}

/// Gives jobs turns, so that a backlog of one starves no other, and gives each batch to the worker with most room.
pub fn solve<B>(problem: Problem<B>) -> Vec<(B, WorkerId)> {
    let mut free = problem.free;
    let mut queues: Vec<_> = problem.waiting.into_iter().map(Vec::into_iter).collect();
    let mut solution = Vec::new();
    while !queues.is_empty() {
        let mut left = Vec::new();
        for mut queue in queues {
            let Some(batch) = queue.next() else { continue };
            let most = free.iter_mut().filter(|(_, slots)| **slots > 0).max_by_key(|(_, slots)| **slots);
            let Some((worker, slots)) = most else { return solution };
            *slots -= 1;
            solution.push((batch, worker.clone()));
            left.push(queue);
        }
        queues = left;
    }
    solution
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_worker_gets_more_than_it_has_room_for_no_batch_goes_twice_and_no_slot_is_left_idle(
            slots in prop::collection::vec(0u32..5, 0..5), jobs in prop::collection::vec(0usize..8, 0..5)
        ) {
            let name = |i: usize| WorkerId::new(format!("w{i}")).unwrap();
            let free: BTreeMap<_, _> = slots.iter().enumerate().map(|(i, n)| (name(i), *n)).collect();
            let waiting = jobs.iter().enumerate().map(|(j, n)| (0..*n).map(|b| (j, b)).collect()).collect();
            let solution = solve(Problem { free: free.clone(), waiting });
            let room: u32 = slots.iter().sum();
            let wanted: usize = jobs.iter().sum();
            prop_assert_eq!(solution.len(), wanted.min(room as usize));
            for (worker, slots) in free {
                prop_assert!(solution.iter().filter(|(_, w)| *w == worker).count() <= slots as usize);
            }
            let mut batches: Vec<_> = solution.iter().map(|(batch, _)| *batch).collect();
            batches.sort_unstable();
            batches.dedup();
            prop_assert_eq!(batches.len(), solution.len());
            let given: Vec<usize> = (0..jobs.len()).map(|j| solution.iter().filter(|((job, _), _)| *job == j).count()).collect();
            for (j, n) in given.iter().enumerate() {
                prop_assert!(*n == jobs[j] || given.iter().all(|other| *other <= n + 1), "a job waits behind another's backlog");
            }
        }
    }
}
