//! States that differ in names only are one state: workers, coordinators and attempts are interchangeable. What nobody
//! can ever reach again is forgotten. Both are exact: neither adds nor hides a behaviour.

use crate::Cluster;
use crate::bug::Bug;
use crate::state::{Attempt, Attempts, BATCHES, Batch, Record, State, WORKERS, Worker};

/// The one state that stands for all that differ from it in names only.
pub fn representative(cluster: &Cluster, state: &State) -> State {
    let (bounds, bug) = (cluster.bounds, cluster.bug);
    let mut state = sort_workers(state, bounds.workers);
    let cursor = state.cursor;
    for coordinator in &mut state.coordinators {
        if !matches!(bug, Some(Bug::NoCursorCompare | Bug::NoCompare)) {
            // Cursors only go forward: the write will be refused whenever it arrives.
            coordinator.sent = coordinator.sent.map(|sent| sent.filter(|sent| sent.from == cursor));
        }
        coordinator.sent.sort_unstable();
        if coordinator.sent[0] == coordinator.sent[1] {
            coordinator.sent[0] = None;
        }
    }
    state.coordinators[..bounds.coordinators].sort_unstable();
    for at in 0..BATCHES {
        if state.batches[at].marker.is_some() && bug != Some(Bug::MarkerOverwrites) {
            state.batches[at].delayed = Attempts::default();
        } else {
            forget_puts_of_the_dead(&mut state, at);
        }
    }
    rename_attempts(&mut state);
    state
}

fn sort_workers(state: &State, workers: usize) -> State {
    let mut order: [usize; WORKERS] = std::array::from_fn(|w| w);
    order[..workers].sort_by_cached_key(|w| looks(state, *w));
    let mut sorted = *state;
    sorted.workers = order.map(|w| state.workers[w]);
    let renamed = |w: u8| order.iter().position(|old| *old == usize::from(w)).map_or(w, |new| new as u8);
    for batch in &mut sorted.batches {
        batch.record = match batch.record {
            Record::Assigned(w) => Record::Assigned(renamed(w)),
            Record::Reported(w, committed) => Record::Reported(renamed(w), committed),
            other => other,
        };
    }
    sorted
}

/// All that tells one worker from another, without any attempt's name.
fn looks(state: &State, w: usize) -> impl Ord + use<> {
    let Worker { lease, task } = state.workers[w];
    let holds = state.batches.map(|batch| match batch.record {
        Record::Assigned(holder) => usize::from(holder) == w,
        Record::Reported(holder, _) => usize::from(holder) == w,
        _ => false,
    });
    let task = task.map(|task| {
        let batch = &state.batches[usize::from(task.batch)];
        let relation = |attempt: Option<Attempt>| {
            attempt.map(|it| {
                let stands = (batch.marker == attempt, batch.published == attempt);
                (stands, batch.staged.has(it), batch.delayed.has(it))
            })
        };
        (task.batch, task.step, relation(task.mine), relation(task.of))
    });
    (lease, task, holds)
}

/// Puts on their way whose worker has moved on are alike: the first to arrive wins, and the others then find it there.
/// One stands for all of them.
fn forget_puts_of_the_dead(state: &mut State, at: usize) {
    let living = |attempt: Attempt| state.tasks().any(|(_, task)| task.mine == Some(attempt));
    let mut kept = Attempts::default();
    let mut dead = None;
    for attempt in state.batches[at].delayed.iter() {
        if living(attempt) {
            kept.add(attempt);
        } else {
            dead = dead.or(Some(attempt));
        }
    }
    if let Some(dead) = dead {
        kept.add(dead);
    }
    state.batches[at].delayed = kept;
}

/// Numbers attempts in a fixed order. A staged file of an attempt that nothing else names is waste.
fn rename_attempts(state: &mut State) {
    let mut names: [Option<Attempt>; 16] = [None; 16];
    let mut next = 0;
    let mut name = |attempt: Option<Attempt>| {
        if let Some(Attempt(old)) = attempt
            && names[usize::from(old)].is_none()
        {
            names[usize::from(old)] = Some(Attempt(next));
            next += 1;
        }
    };
    for batch in &state.batches {
        name(batch.marker);
        name(batch.published);
    }
    for (_, task) in state.tasks() {
        name(task.mine);
        name(task.of);
    }
    for batch in &state.batches {
        batch.delayed.iter().for_each(|attempt| name(Some(attempt)));
    }
    let renamed = |attempt: Attempt| names[usize::from(attempt.0)];
    let set = |attempts: Attempts| {
        let mut new = Attempts::default();
        attempts.iter().filter_map(renamed).for_each(|attempt| new.add(attempt));
        new
    };
    for batch in &mut state.batches {
        *batch = Batch {
            marker: batch.marker.and_then(renamed),
            published: batch.published.and_then(renamed),
            staged: set(batch.staged),
            delayed: set(batch.delayed),
            ..*batch
        };
    }
    for task in state.workers.iter_mut().filter_map(|worker| worker.task.as_mut()) {
        task.mine = task.mine.and_then(renamed);
        task.of = task.of.and_then(renamed);
    }
}
