//! Everything that can happen next.

use crate::Cluster;
use crate::bug::Bug;
use crate::state::{Attempt, Belief, Record, Sent, State, Step};

/// How a call to the object store goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    Done,
    /// It happened, but the answer was lost.
    ReplyLost,
    /// It did not happen.
    Failed,
    /// The client gives it up, but it may yet arrive.
    Delayed,
}

/// One step of one process, or of the world. Coordinators, workers and batches by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    Campaign(usize),
    LeaderLeaseEnds,
    /// A coordinator crashes, or notices that it was deposed.
    StepDown(usize),
    /// A coordinator looks into the log and sends a plan.
    Plan(usize, Sent),
    /// A plan's write reaches the metadata store.
    PlanArrives(usize, usize),
    Assign(usize, usize),
    Settle(usize),
    TakeBack(usize),
    Remove(usize),
    Register(usize),
    WorkerLeaseEnds(usize),
    /// A worker crashes, or drops its task since its lease or its assignment is gone.
    Drop(usize),
    /// A worker begins an assignment: reads the marker, and if there is none, computes and stages.
    Take(usize, usize),
    Put(usize, Fate),
    ReadBack(usize),
    LookStaged(usize),
    LookFinal(usize),
    Copy(usize, Fate),
    Verify(usize),
    Clear(usize, Fate),
    Report(usize),
    /// A put that its client has given up reaches the object store.
    PutArrives(usize, Attempt),
}

pub fn actions(cluster: &Cluster, state: &State, actions: &mut Vec<Action>) {
    coordinating(cluster, state, actions);
    dispatching(cluster, state, actions);
    for w in 0..cluster.bounds.workers {
        working(cluster, state, w, actions);
    }
    for (at, batch) in state.batches.iter().enumerate() {
        actions.extend(batch.delayed.iter().map(|attempt| Action::PutArrives(at, attempt)));
    }
}

fn coordinating(cluster: &Cluster, state: &State, actions: &mut Vec<Action>) {
    if state.leader_key {
        actions.push(Action::LeaderLeaseEnds);
    }
    for c in 0..cluster.bounds.coordinators {
        let coordinator = state.coordinators[c];
        if coordinator.belief == Belief::Follows {
            if !state.leader_key {
                actions.push(Action::Campaign(c));
            }
        } else {
            actions.push(Action::StepDown(c));
            if coordinator.sent.contains(&None) {
                let current = coordinator.belief == Belief::Leads;
                let decisions = cluster.decisions.from(state.cursor).iter().map(|it| Sent { current, ..*it });
                let others = decisions.filter(|decision| !coordinator.sent.contains(&Some(*decision)));
                actions.extend(others.map(|decision| Action::Plan(c, decision)));
            }
        }
        for (n, sent) in coordinator.sent.iter().enumerate() {
            if sent.is_some() {
                actions.push(Action::PlanArrives(c, n));
            }
        }
    }
}

/// Deciding and writing are one step here: such a write is decided from the very values that it compares, so one that
/// arrives late does what one decided at that moment would do.
fn dispatching(cluster: &Cluster, state: &State, actions: &mut Vec<Action>) {
    if !state.coordinators.iter().any(|coordinator| coordinator.belief == Belief::Leads) {
        return;
    }
    for (at, batch) in state.batches.iter().enumerate() {
        match batch.record {
            Record::Pending => {
                let free = |w: &usize| {
                    let holds =
                        |record| matches!(record, Record::Assigned(h) | Record::Reported(h, _) if usize::from(h) == *w);
                    state.workers[*w].lease && !state.batches.iter().any(|batch| holds(batch.record))
                };
                actions.extend((0..cluster.bounds.workers).filter(free).map(|w| Action::Assign(at, w)));
            }
            Record::Reported(..) => actions.push(Action::Settle(at)),
            Record::Orphaned => actions.push(Action::TakeBack(at)),
            Record::Committed => actions.push(Action::Remove(at)),
            Record::Absent | Record::Assigned(_) | Record::Removed => {}
        }
    }
}

fn working(cluster: &Cluster, state: &State, w: usize, actions: &mut Vec<Action>) {
    let worker = state.workers[w];
    if worker.lease {
        actions.push(Action::WorkerLeaseEnds(w));
    }
    let Some(task) = worker.task else {
        if !worker.lease {
            actions.push(Action::Register(w));
        }
        let given = state.batches.iter().enumerate().filter(|(_, batch)| batch.record == Record::Assigned(w as u8));
        actions.extend(given.map(|(at, _)| Action::Take(w, at)));
        return;
    };
    actions.push(Action::Drop(w));
    match task.step {
        Step::Put => {
            let fates = [Fate::Done, Fate::ReplyLost, Fate::Failed, Fate::Delayed];
            // Where nothing depends on the answer, a lost one makes no difference.
            let answer_counts = matches!(cluster.bug, Some(Bug::ExistsIsSuccess | Bug::NoAnswerIsLoss));
            let differ = fates.into_iter().filter(|fate| answer_counts || *fate != Fate::ReplyLost);
            actions.extend(differ.map(|fate| Action::Put(w, fate)));
        }
        Step::ReadBack(_) => actions.push(Action::ReadBack(w)),
        Step::LookStaged => actions.push(Action::LookStaged(w)),
        Step::LookFinal { .. } => actions.push(Action::LookFinal(w)),
        Step::Copy => actions.extend([Fate::Done, Fate::ReplyLost, Fate::Failed].map(|fate| Action::Copy(w, fate))),
        Step::Verify => actions.push(Action::Verify(w)),
        Step::Clear => actions.extend([Fate::Done, Fate::ReplyLost, Fate::Failed].map(|fate| Action::Clear(w, fate))),
        Step::Report { .. } => actions.push(Action::Report(w)),
    }
}
