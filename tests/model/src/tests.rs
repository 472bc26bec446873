use std::collections::HashSet;

use stateright::{Checker, HasDiscoveries, Model};

use super::*;
use crate::bug::FOUND;

/// Small enough for every test run; `cargo run --release -p windrow-model` visits the whole.
const SMALL: Bounds = Bounds { coordinators: 2, workers: 2, log_lengths: &[5] };
/// With two states of the log, in which two coordinators decide otherwise.
const DISAGREEING: Bounds = Bounds { coordinators: 2, workers: 1, log_lengths: &[2, 5] };

/// The promises that are broken without a guard, as far as they are looked for.
fn broken(bounds: Bounds, bug: Bug, until: HasDiscoveries) -> HashSet<&'static str> {
    let cluster = Cluster::new(bounds, Some(bug)).unwrap();
    let checker = cluster.checker().finish_when(until).spawn_bfs().join();
    checker.discoveries().into_keys().collect()
}

#[test]
fn with_all_guards_every_promise_holds_in_every_state() {
    for bounds in [SMALL, DISAGREEING] {
        let checker = Cluster::new(bounds, None).unwrap().checker().threads(2).spawn_bfs().join();
        println!("{bounds:?}: {} states", checker.unique_state_count());
        assert!(checker.unique_state_count() > 20_000, "the model still reaches what it is about");
        checker.assert_properties();
    }
}

#[test]
fn each_missing_guard_is_found_by_the_promise_that_it_keeps() {
    for (bug, promise) in FOUND {
        let started = std::time::Instant::now();
        let bounds = if [DEPOSED, ENDS].contains(&promise) { DISAGREEING } else { SMALL };
        let broken = broken(bounds, bug, HasDiscoveries::AllOf([promise].into()));
        println!("{bug:?}: {broken:?}, {:.1?}", started.elapsed());
        assert!(broken.contains(promise), "{bug:?} breaks {broken:?}, not {promise:?}");
    }
}

#[test]
fn comparing_the_cursor_makes_comparing_the_batch_needless_for_plans() {
    assert_eq!(broken(DISAGREEING, Bug::NoBatchCompare, HasDiscoveries::AnyFailures), HashSet::new());
}

#[test]
fn names_make_no_difference() {
    let cluster = Cluster::new(SMALL, None).unwrap();
    let mut state = State::first();
    let mut actions = Vec::new();
    for n in 0..2_000_usize {
        actions.clear();
        cluster.actions(&state, &mut actions);
        state = step::step(&cluster, &state, actions[n * 7 % actions.len()]);
        let again = same::representative(&cluster, &state);
        assert_eq!(again, state, "the representative represents itself");
        let mut renamed = state;
        renamed.workers.swap(0, 1);
        for batch in &mut renamed.batches {
            batch.record = match batch.record {
                Record::Assigned(w) => Record::Assigned(1 - w),
                Record::Reported(w, committed) => Record::Reported(1 - w, committed),
                other => other,
            };
        }
        renamed.coordinators.swap(0, 1);
        assert_eq!(same::representative(&cluster, &renamed), state);
    }
}
