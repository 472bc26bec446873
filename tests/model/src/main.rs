//! `cargo run --release -p windrow-model`: visits every state of the model, and says how many there are.

use std::time::Instant;

use stateright::{Checker, Model};
use windrow_model::{Bounds, Cluster};

fn main() -> anyhow::Result<()> {
    for bounds in [
        // Every moment at which a silent partition may be sealed, hence the most disagreement.
        Bounds { coordinators: 2, workers: 1, log_lengths: &[0, 1, 2, 3, 4, 5] },
        // The most workers on one batch, over two states of the log.
        Bounds { coordinators: 2, workers: 3, log_lengths: &[2, 5] },
    ] {
        let started = Instant::now();
        let checker = Cluster::new(bounds, None)?.checker().threads(2).spawn_bfs().join();
        println!(
            "{bounds:?}: {} states, {} steps between them, at most {} from the first, {:.1?}",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth(),
            started.elapsed()
        );
        checker.assert_properties();
    }
    Ok(())
}
