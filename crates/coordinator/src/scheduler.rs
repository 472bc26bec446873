//! Which batch goes to which worker: a problem in, a solution out, no I/O.

use std::collections::{BTreeMap, VecDeque};

use windrow_protocol::{JobName, WorkerId};

/// Who has room, and what waits.
#[derive(Debug, Default)]
pub struct Problem<B> {
    /// Free slots.
    pub free: BTreeMap<WorkerId, u32>,
    /// Jobs with batches that may run, in the order of their turns.
    pub queues: Vec<Queue<B>>,
}

/// Whose turn it is: of jobs that have equally few slots the one that was given one longest ago. With fewer slots than jobs
/// most have none, and by their names alone the last would never get one. Known to one leader only; the next one begins anew.
#[derive(Debug, Default)]
pub struct Turns {
    /// By job, the number of its last turn.
    last: BTreeMap<JobName, u64>,
    number: u64,
}

impl Turns {
    /// Orders by turn; jobs that never had one come first.
    pub fn of(&self, job: &JobName) -> Option<u64> {
        self.last.get(job).copied()
    }

    pub fn took(&mut self, job: &JobName) {
        self.number += 1;
        self.last.insert(job.clone(), self.number);
    }

    /// Forgets jobs that are gone.
    pub fn keep(&mut self, is_there: impl Fn(&JobName) -> bool) {
        self.last.retain(|job, _| is_there(job));
    }
}

/// A job's batches that may run, in the order in which they are wanted.
#[derive(Debug)]
pub struct Queue<B> {
    /// Slots that the job has already.
    pub running: usize,
    pub waiting: Vec<Waiting<B>>,
}

/// A batch that may run.
#[derive(Debug)]
pub struct Waiting<B> {
    pub batch: B,
    /// The worker that gets it if it has room: it may still have what the batch reads.
    pub home: Option<WorkerId>,
}

/// Gives the next slot to the job that has fewest, and to the first of several such, so that a backlog of one starves no
/// other: slots come free one at a time. The job gives the first batch whose home has room to it, and if there is none its first batch to the worker with
/// most room.
pub fn solve<B>(problem: Problem<B>) -> Vec<(B, WorkerId)> {
    let mut free = problem.free;
    let queues = problem.queues.into_iter().map(|queue| (queue.running, VecDeque::from(queue.waiting)));
    let mut queues: Vec<(usize, VecDeque<Waiting<B>>)> = queues.collect();
    let mut solution = Vec::new();
    loop {
        queues.retain(|(_, waiting)| !waiting.is_empty());
        let Some((running, waiting)) = queues.iter_mut().min_by_key(|(running, _)| *running) else { return solution };
        let has_room = |home: &WorkerId| free.get(home).is_some_and(|slots| *slots > 0);
        let at_home = waiting.iter().position(|waiting| waiting.home.as_ref().is_some_and(has_room));
        let Some(Waiting { batch, home }) = waiting.remove(at_home.unwrap_or(0)) else { return solution };
        let most = || free.iter().filter(|(_, slots)| **slots > 0).max_by_key(|(_, slots)| **slots);
        let worker = home.filter(has_room).or_else(|| most().map(|(worker, _)| worker.clone()));
        let Some(worker) = worker else { return solution };
        free.entry(worker.clone()).and_modify(|slots| *slots -= 1);
        *running += 1;
        solution.push((batch, worker));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_worker_with_room_gets_the_first_batch_of_which_it_is_the_home_and_else_the_first() {
        let [a, b] = ["a", "b"].map(|name| WorkerId::new(name).unwrap());
        let waiting = || [(1, &a), (2, &b), (3, &b)].map(|(batch, home)| Waiting { batch, home: Some(home.clone()) });
        let give = |free: &[(&WorkerId, u32)]| {
            let free = free.iter().map(|(worker, slots)| ((*worker).clone(), *slots)).collect();
            solve(Problem { free, queues: vec![Queue { running: 0, waiting: waiting().into() }] })
        };
        assert_eq!(give(&[(&b, 1)]), [(2, b.clone())]);
        assert_eq!(give(&[(&b, 3)]), [(2, b.clone()), (3, b.clone()), (1, b.clone())]);
        let other = WorkerId::new("c").unwrap();
        assert_eq!(give(&[(&other, 1)]), [(1, other)]);
    }

    #[test]
    fn a_slot_that_comes_free_goes_to_the_job_that_has_fewest() {
        let queue = |job: &'static str, running| Queue { running, waiting: vec![Waiting { batch: job, home: None }] };
        let worker = WorkerId::new("a").unwrap();
        let queues = vec![queue("first by name, with a backlog", 7), queue("second", 2), queue("third", 3)];
        let given = solve(Problem { free: [(worker.clone(), 1)].into(), queues });
        assert_eq!(given, [("second", worker)]);
    }

    proptest! {
        #[test]
        fn no_worker_gets_more_than_it_has_room_for_no_batch_goes_twice_and_no_slot_is_left_idle(
            slots in prop::collection::vec(0u32..5, 0..5), jobs in prop::collection::vec(0usize..8, 0..5),
            homes in prop::collection::vec(prop::option::of(0usize..6), 40), running in prop::collection::vec(0usize..4, 5)
        ) {
            let name = |i: usize| WorkerId::new(format!("w{i}")).unwrap();
            let free: BTreeMap<_, _> = slots.iter().enumerate().map(|(i, n)| (name(i), *n)).collect();
            let home = |j: usize, b: usize| homes[j * 8 + b].map(name);
            let waiting = |j: usize, b: usize| Waiting { batch: (j, b), home: home(j, b) };
            let queue = |(j, n): (usize, &usize)| Queue { running: running[j], waiting: (0..*n).map(|b| waiting(j, b)).collect() };
            let queues = jobs.iter().enumerate().map(queue).collect();
            let solution = solve(Problem { free: free.clone(), queues });
            let room: u32 = slots.iter().sum();
            let wanted: usize = jobs.iter().sum();
            prop_assert_eq!(solution.len(), wanted.min(room as usize));
            for (worker, slots) in &free {
                prop_assert!(solution.iter().filter(|(_, w)| w == worker).count() <= *slots as usize);
            }
            for ((j, b), worker) in &solution {
                // Who is sent elsewhere has found its home full of others.
                if let Some(home) = home(*j, *b).filter(|home| home != worker && free.contains_key(home)) {
                    let there = solution.iter().filter(|(_, worker)| *worker == home).count();
                    prop_assert_eq!(there, free[&home] as usize);
                }
            }
            let mut batches: Vec<_> = solution.iter().map(|(batch, _)| *batch).collect();
            batches.sort_unstable();
            batches.dedup();
            prop_assert_eq!(batches.len(), solution.len());
            let given: Vec<usize> = (0..jobs.len()).map(|j| solution.iter().filter(|((job, _), _)| *job == j).count()).collect();
            let has = |j: usize| running[j] + given[j];
            for j in (0..jobs.len()).filter(|j| given[*j] < jobs[*j]) {
                let fair = (0..jobs.len()).all(|other| given[other] == 0 || has(other) <= has(j) + 1);
                prop_assert!(fair, "a job waits behind another's backlog");
            }
        }
    }
}
