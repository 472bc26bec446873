//! What a cluster does when nothing fails any more: from every state that faults can lead to, it must end with both
//! windows committed.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Mutex;

use crate::Cluster;
use crate::action::{Action, Fate};
use crate::state::{Belief, Record, State, Step, Task};
use crate::step::step;

/// Far more steps than it takes from anywhere.
const MOST: usize = 500;

/// States from which a healthy cluster is known to commit everything, by hash. In parts, for several threads.
#[derive(Debug, Default)]
pub struct Known([Mutex<HashSet<u64, BuildHasherDefault<AsIs>>>; 16]);

impl Known {
    fn has(&self, hash: u64) -> bool {
        self.0[(hash % 16) as usize].lock().is_ok_and(|part| part.contains(&hash))
    }

    fn add(&self, hash: u64) {
        if let Ok(mut part) = self.0[(hash % 16) as usize].lock() {
            part.insert(hash);
        }
    }
}

/// Hashes that are hashes already.
#[derive(Debug, Default)]
pub struct AsIs(u64);

impl std::hash::Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Whether both windows are sealed and their batches committed, published and gone from the metadata store.
pub fn is_done(state: &State) -> bool {
    state.batches.iter().zip(0u8..).all(|(batch, at)| {
        batch.record == Record::Removed || (batch.record == Record::Absent && at < state.cursor.windows)
    })
}

/// Whether a healthy cluster gets from here to the end.
pub fn gets_done(cluster: &Cluster, state: &State) -> bool {
    let (mut at, mut walked) = (*state, Vec::new());
    while walked.len() < MOST {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(at);
        if is_done(&at) || cluster.known.has(hash) {
            walked.into_iter().for_each(|hash| cluster.known.add(hash));
            return true;
        }
        walked.push(hash);
        let Some(action) = next(cluster, &at) else { return false };
        at = step(cluster, &at, action);
    }
    false
}

/// The next thing that happens. Leases of the dead end, as time passes.
fn next(cluster: &Cluster, state: &State) -> Option<Action> {
    if let Some((w, task)) = state.tasks().next() {
        return Some(forward(w, task));
    }
    if let Some(w) = (0..cluster.bounds.workers).find(|w| !state.workers[*w].lease) {
        return Some(Action::Register(w));
    }
    let believes = |belief| state.coordinators.iter().position(|coordinator| coordinator.belief == belief);
    let Some(leader) = believes(Belief::Leads) else {
        return match believes(Belief::Deposed) {
            Some(deposed) => Some(Action::StepDown(deposed)),
            None if state.leader_key => Some(Action::LeaderLeaseEnds),
            None => Some(Action::Campaign(0)),
        };
    };
    for (at, batch) in state.batches.iter().enumerate() {
        match batch.record {
            Record::Reported(..) => return Some(Action::Settle(at)),
            Record::Orphaned => return Some(Action::TakeBack(at)),
            Record::Committed => return Some(Action::Remove(at)),
            Record::Assigned(w) => return Some(Action::Take(usize::from(w), at)),
            Record::Pending => return Some(Action::Assign(at, 0)),
            Record::Absent | Record::Removed => {}
        }
    }
    let sent = state.coordinators[leader].sent.iter().position(Option::is_some);
    let decide = || Some(Action::Plan(leader, *cluster.decisions.from(state.cursor).last()?));
    sent.map(|n| Action::PlanArrives(leader, n)).or_else(decide)
}

fn forward(w: usize, task: Task) -> Action {
    match task.step {
        Step::Put => Action::Put(w, Fate::Done),
        Step::ReadBack(_) => Action::ReadBack(w),
        Step::LookStaged => Action::LookStaged(w),
        Step::LookFinal { .. } => Action::LookFinal(w),
        Step::Copy => Action::Copy(w, Fate::Done),
        Step::Verify => Action::Verify(w),
        Step::Clear => Action::Clear(w, Fate::Done),
        Step::Report { .. } => Action::Report(w),
    }
}
