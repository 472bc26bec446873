//! A model of how windrow plans, assigns, commits and publishes, small enough that every state of it can be visited:
//! coordinators that lead, are deposed and do not notice, workers that lose their lease and go on, calls whose answer is
//! lost or which arrive long after they were given up, crashes at every step, any number of them.
//!
//! The decisions are the product's: `cut`, `may_seal_idle`, `verdict`, `publish_step` of `windrow_protocol`. The two
//! stores, and the order in which workers and coordinators call them, are written down here from `crates/worker`,
//! `crates/coordinator` and `crates/storage`.
//!
//! Not in it: the metadata store's and the object store's own faults (they are taken to be linearizable), several files
//! of one batch (each is published by itself), the last step of a window (it commits as a partition's batch does),
//! batches that are parked or given up, retention, more than one revision.

pub mod action;
pub mod bug;
pub mod healthy;
mod planning;
mod same;
pub mod state;
mod step;

use stateright::{Model, Property};
use windrow_protocol::AttemptId;
use windrow_protocol::marker::FileEntry;

use crate::action::Action;
use crate::bug::Bug;
use crate::planning::Decisions;
use crate::state::{Attempt, Belief, Record, State, Step};

pub const MARKERS: &str = "a marker that stands never changes";
pub const ENDS: &str = "a sealed end never moves, and every offset is owned once";
pub const READABLE: &str = "what is committed stays readable, or can be made so";
pub const ONLY_COMMITTED: &str = "nothing but the committed attempt's bytes is ever at a final path";
pub const REPORTED: &str = "what is reported as committed is published";
pub const BROKEN: &str = "no publisher finds a commit broken";
pub const DEPOSED: &str = "a deposed leader's plans change nothing";
pub const DONE: &str = "once faults end, a healthy cluster commits everything";

/// How large the model is.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub coordinators: usize,
    pub workers: usize,
    /// States of the log, by its records, that coordinators may look at. With more of them plans differ more.
    pub log_lengths: &'static [usize],
}

/// A cluster, with a guard missing or not.
#[derive(Debug)]
pub struct Cluster {
    pub bounds: Bounds,
    pub bug: Option<Bug>,
    decisions: Decisions,
    known: healthy::Known,
    /// Names of attempts, for the functions that compare them.
    names: Vec<AttemptId>,
    /// The one file of a batch. All attempts' files have the same size, so that no size tells them apart.
    entry: FileEntry,
}

impl Cluster {
    pub fn new(bounds: Bounds, bug: Option<Bug>) -> anyhow::Result<Self> {
        let names = (0..16).map(|n| AttemptId::new(format!("attempt-{n}"))).collect::<Result<_, _>>()?;
        let entry =
            FileEntry { staged: "staged".into(), path: "final".into(), bytes: 10, rows: 1, sha256: String::new() };
        let decisions = Decisions::new(bounds.log_lengths)?;
        Ok(Self { bounds, bug, decisions, known: healthy::Known::default(), names, entry })
    }

    fn name(&self, attempt: Attempt) -> &AttemptId {
        &self.names[usize::from(attempt.0)]
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        action::actions(self, state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let after = step::step(self, state, action);
        (after != *state).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = always();
        // Those show that the model reaches what it is about.
        if self.bug.is_none() {
            properties.extend(sometimes());
            properties.extend((self.bounds.workers > 1).then(together));
        }
        properties
    }
}

fn always() -> Vec<Property<Cluster>> {
    vec![
        Property::always(MARKERS, |_, state: &State| !state.wrong.marker_changed),
        Property::always(ENDS, |_, state: &State| !state.wrong.end_moved),
        Property::always(READABLE, |_, state: &State| {
            let kept = state.batches.iter().all(|batch| {
                batch.marker.is_none_or(|stands| batch.published == batch.marker || batch.staged.has(stands))
            });
            kept && !state.wrong.published_changed
        }),
        Property::always(ONLY_COMMITTED, |_, state: &State| {
            state.batches.iter().all(|batch| batch.published.is_none() || batch.published == batch.marker)
        }),
        Property::always(REPORTED, |_, state: &State| {
            state.batches.iter().all(|batch| {
                let said = matches!(batch.record, Record::Reported(_, true) | Record::Committed | Record::Removed);
                !said || (batch.marker.is_some() && batch.published == batch.marker)
            })
        }),
        Property::always(BROKEN, |_, state: &State| !state.wrong.found_broken),
        Property::always(DEPOSED, |_, state: &State| !state.wrong.deposed_wrote),
        Property::always(DONE, healthy::gets_done),
    ]
}

fn sometimes() -> Vec<Property<Cluster>> {
    vec![
        Property::sometimes("both windows are done", |_, state: &State| healthy::is_done(state)),
        Property::sometimes("a worker without its lease wins", |_, state: &State| {
            state.tasks().any(|(w, task)| {
                let marker = state.batches[usize::from(task.batch)].marker;
                !state.workers[w].lease && task.mine.is_some() && task.mine == marker
            })
        }),
        Property::sometimes("an attempt loses", |_, state: &State| {
            state.tasks().any(|(_, task)| {
                let marker = state.batches[usize::from(task.batch)].marker;
                task.mine.is_some() && marker.is_some() && task.mine != marker
            })
        }),
        Property::sometimes("a put is on its way whose worker has gone", |_, state: &State| {
            let living = |attempt| state.tasks().any(|(_, task)| task.mine == Some(attempt));
            state.batches.iter().any(|batch| batch.delayed.iter().any(|attempt| !living(attempt)))
        }),
        Property::sometimes("a deposed leader has a plan on its way while another leads", |_, state: &State| {
            let stale = state.coordinators.iter().flat_map(|it| it.sent).flatten().any(|sent| !sent.current);
            stale && state.coordinators.iter().any(|it| it.belief == Belief::Leads)
        }),
    ]
}

fn together() -> Property<Cluster> {
    Property::sometimes("two workers copy the same file", |_, state: &State| {
        let copying = |at| move |(_, task): &(usize, state::Task)| task.batch == at && task.step == Step::Copy;
        (0..).zip(&state.batches).any(|(at, _)| state.tasks().filter(copying(at)).count() > 1)
    })
}

#[cfg(test)]
mod tests;
