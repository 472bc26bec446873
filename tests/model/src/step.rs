//! What an action does to the stores and to the process that takes it. What the product decides, its own functions
//! decide here too.

use windrow_protocol::commit::{FileSeen, FileStep, Verdict, publish_step, verdict};

use crate::Cluster;
use crate::action::{Action, Fate};
use crate::bug::Bug;
use crate::same::representative;
use crate::state::{Answer, Attempt, Batch, Belief, Record, Sent, State, Step, Task};

/// The state after an action.
pub fn step(cluster: &Cluster, state: &State, action: Action) -> State {
    let mut after = *state;
    match action {
        Action::Campaign(c) => {
            after.leader_key = true;
            after.coordinators[c].belief = Belief::Leads;
        }
        Action::LeaderLeaseEnds => leader_lease_ends(&mut after),
        Action::StepDown(c) => after.coordinators[c].belief = Belief::Follows,
        Action::Plan(c, sent) => {
            if let Some(free) = after.coordinators[c].sent.iter_mut().find(|sent| sent.is_none()) {
                *free = Some(sent);
            }
        }
        Action::PlanArrives(c, n) => {
            if let Some(sent) = after.coordinators[c].sent[n].take() {
                write_plan(cluster, &mut after, sent);
            }
        }
        Action::Assign(at, w) => after.batches[at].record = Record::Assigned(w as u8),
        Action::Settle(at) => {
            let committed = matches!(after.batches[at].record, Record::Reported(_, true));
            after.batches[at].record = if committed { Record::Committed } else { Record::Pending };
        }
        Action::TakeBack(at) => after.batches[at].record = Record::Pending,
        Action::Remove(at) => after.batches[at].record = Record::Removed,
        Action::Register(w) => after.workers[w].lease = true,
        Action::WorkerLeaseEnds(w) => worker_lease_ends(&mut after, w),
        Action::Drop(w) => after.workers[w].task = None,
        Action::Take(w, at) => take(cluster, &mut after, w, at),
        Action::PutArrives(at, attempt) => {
            after.batches[at].delayed.remove(attempt);
            put(cluster, &mut after, at, attempt);
        }
        Action::Put(w, _)
        | Action::ReadBack(w)
        | Action::LookStaged(w)
        | Action::LookFinal(w)
        | Action::Copy(w, _)
        | Action::Verify(w)
        | Action::Clear(w, _)
        | Action::Report(w) => {
            if let Some(task) = state.workers[w].task {
                after.workers[w].task = work(cluster, &mut after, w, task, action);
            }
        }
    }
    representative(cluster, &after)
}

fn leader_lease_ends(state: &mut State) {
    state.leader_key = false;
    for coordinator in &mut state.coordinators {
        if coordinator.belief == Belief::Leads {
            coordinator.belief = Belief::Deposed;
        }
        coordinator.sent = coordinator.sent.map(|sent| sent.map(|sent| Sent { current: false, ..sent }));
    }
}

/// The transaction of a plan: all of it if what it compares holds, else nothing.
fn write_plan(cluster: &Cluster, state: &mut State, sent: Sent) {
    let bug = |bugs: &[Bug]| cluster.bug.is_some_and(|bug| bugs.contains(&bug));
    let batch = &mut state.batches[usize::from(sent.from.windows)];
    let leads = sent.current || bug(&[Bug::NoLeaderCompare, Bug::NoCompare]);
    let cursor = sent.from == state.cursor || bug(&[Bug::NoCursorCompare, Bug::NoCompare]);
    let absent = sent.empty
        || matches!(batch.record, Record::Absent | Record::Removed)
        || bug(&[Bug::NoBatchCompare, Bug::NoCompare]);
    if !(leads && cursor && absent) {
        return;
    }
    state.wrong.deposed_wrote |= !sent.current;
    let moved = batch.sealed.is_some_and(|end| end != sent.to.end);
    // Owned offsets begin where those of the window before end.
    let gap = sent.from.end != state.cursor.end || sent.to.end < state.cursor.end;
    state.wrong.end_moved |= moved || gap;
    batch.sealed = batch.sealed.or(Some(sent.to.end));
    if !sent.empty {
        batch.record = Record::Pending;
    }
    state.cursor = sent.to;
}

fn worker_lease_ends(state: &mut State, w: usize) {
    state.workers[w].lease = false;
    for batch in &mut state.batches {
        if let Record::Assigned(holder) | Record::Reported(holder, _) = batch.record
            && usize::from(holder) == w
        {
            batch.record = Record::Orphaned;
        }
    }
}

fn take(cluster: &Cluster, state: &mut State, w: usize, at: usize) {
    let task = |step, mine, of| Some(Task { batch: at as u8, step, mine, of });
    let batch = &state.batches[at];
    state.workers[w].task = match batch.marker {
        Some(_) if cluster.bug == Some(Bug::NoRollForward) => task(Step::Report { committed: true }, None, None),
        Some(stands) => task(Step::LookStaged, None, Some(stands)),
        None => {
            let mine = state.unused_attempt();
            state.batches[at].staged.add(mine);
            if cluster.bug == Some(Bug::PublishesFirst) {
                state.batches[at].published = Some(mine);
            }
            task(Step::Put, Some(mine), None)
        }
    };
}

/// Put-if-absent, at the store.
fn put(cluster: &Cluster, state: &mut State, at: usize, attempt: Attempt) -> Answer {
    let batch = &mut state.batches[at];
    match batch.marker {
        Some(other) if cluster.bug == Some(Bug::MarkerOverwrites) => {
            state.wrong.marker_changed |= other != attempt;
            batch.marker = Some(attempt);
            Answer::Created
        }
        Some(_) => Answer::Exists,
        None => {
            batch.marker = Some(attempt);
            Answer::Created
        }
    }
}

/// A worker's next call; what it has in hand after it.
fn work(cluster: &Cluster, state: &mut State, w: usize, task: Task, action: Action) -> Option<Task> {
    let at = usize::from(task.batch);
    let then = |step| Some(Task { step, ..task });
    let failed = Some(Task { step: Step::Report { committed: false }, mine: None, of: None, ..task });
    match (task.step, action) {
        (Step::Put, Action::Put(_, fate)) => {
            let mine = task.mine?;
            let answer = match fate {
                Fate::Done | Fate::ReplyLost => put(cluster, state, at, mine),
                Fate::Failed => Answer::Error,
                Fate::Delayed => {
                    state.batches[at].delayed.add(mine);
                    Answer::Error
                }
            };
            let heard = if fate == Fate::ReplyLost { Answer::Error } else { answer };
            let counts = matches!(cluster.bug, Some(Bug::ExistsIsSuccess | Bug::NoAnswerIsLoss));
            then(Step::ReadBack(if counts { heard } else { Answer::Unused }))
        }
        (Step::ReadBack(answer), _) => read_back(cluster, &mut state.batches[at], task, answer),
        (Step::LookStaged, _) => then(Step::LookFinal { staged: look(cluster, &state.batches[at], task, true) }),
        (Step::LookFinal { staged: first }, _) => {
            let second = look(cluster, &state.batches[at], task, false);
            let (staged, published) =
                if cluster.bug == Some(Bug::LooksAtFinalFirst) { (second, first) } else { (first, second) };
            let bytes = |there: bool| there.then_some(cluster.entry.bytes);
            match publish_step(&cluster.entry, FileSeen { staged_bytes: bytes(staged), final_bytes: bytes(published) })
            {
                FileStep::Copy => then(Step::Copy),
                FileStep::Done => Some(Task { step: Step::Report { committed: true }, of: None, ..task }),
                FileStep::Broken(_) => {
                    state.wrong.found_broken = true;
                    failed
                }
            }
        }
        (Step::Copy, Action::Copy(_, fate)) => copy(cluster, state, task, fate),
        (Step::Verify, _) if state.batches[at].published.is_some() => then(Step::Clear),
        (Step::Verify, _) => then(Step::LookStaged),
        (Step::Clear, Action::Clear(_, fate)) => {
            if fate != Fate::Failed {
                state.batches[at].staged.remove(task.of?);
            }
            let committed = fate == Fate::Done;
            Some(Task { step: Step::Report { committed }, of: None, ..task })
        }
        (Step::Report { committed }, _) => {
            let record = &mut state.batches[at].record;
            if *record == Record::Assigned(w as u8) {
                *record = Record::Reported(w as u8, committed);
            }
            None
        }
        // No other action is offered to a task at this step.
        _ => Some(task),
    }
}

/// The first or the second of a publisher's two looks: whether the file is there.
fn look(cluster: &Cluster, batch: &Batch, task: Task, first: bool) -> bool {
    let staged = first != (cluster.bug == Some(Bug::LooksAtFinalFirst));
    if staged { task.of.is_some_and(|of| batch.staged.has(of)) } else { batch.published.is_some() }
}

fn read_back(cluster: &Cluster, batch: &mut Batch, task: Task, answer: Answer) -> Option<Task> {
    let mine = task.mine?;
    let publish = |of| Some(Task { step: Step::LookStaged, mine: None, of: Some(of), ..task });
    let report = |committed| Some(Task { step: Step::Report { committed }, mine: None, of: None, ..task });
    match cluster.bug {
        Some(Bug::ExistsIsSuccess) if answer == Answer::Exists => return publish(mine),
        Some(Bug::NoAnswerIsLoss) if answer == Answer::Error => {
            batch.staged.remove(mine);
            return report(false);
        }
        _ => {}
    }
    let found = batch.marker.map(|stands| cluster.name(stands));
    match verdict(cluster.name(mine), found) {
        Verdict::Open => {
            if cluster.bug == Some(Bug::UnknownIsLoss) {
                batch.staged.remove(mine);
            }
            report(false)
        }
        Verdict::Won if cluster.bug == Some(Bug::ReportsFirst) => report(true),
        Verdict::Won => publish(mine),
        Verdict::Lost(_) => {
            let stands = batch.marker?;
            batch.staged.remove(if cluster.bug == Some(Bug::LoserDeletesWinners) { stands } else { mine });
            if cluster.bug == Some(Bug::NoRollForward) { report(true) } else { publish(stands) }
        }
    }
}

fn copy(cluster: &Cluster, state: &mut State, task: Task, fate: Fate) -> Option<Task> {
    let (of, batch) = (task.of?, &mut state.batches[usize::from(task.batch)]);
    let then = |step| Some(Task { step, ..task });
    let there = batch.staged.has(of);
    if there && fate != Fate::Failed {
        let changes = batch.published.is_some_and(|before| Some(before) == batch.marker && before != of);
        state.wrong.published_changed |= changes;
        batch.published = Some(of);
    }
    match fate {
        _ if cluster.bug == Some(Bug::DeletesUnverified) => then(Step::Clear),
        Fate::Done if there => then(Step::Verify),
        // Another publisher has finished meanwhile: look again.
        Fate::Done => then(Step::LookStaged),
        _ => Some(Task { step: Step::Report { committed: false }, of: None, ..task }),
    }
}
