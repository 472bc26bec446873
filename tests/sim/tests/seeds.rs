//! Whole clusters from seeds. When one fails: `cargo run -p windrow-sim -- --seed N --trace`.

use windrow_sim::faults::Counts;
use windrow_sim::run::{Report, run};

/// What a test run covers; `cargo run -p windrow-sim --release -- --seeds 10000` covers more.
const SEEDS: u64 = 200;

#[test]
fn no_seed_breaks_a_promise() {
    let mut faults = Counts::default();
    let mut bad: Vec<Report> = Vec::new();
    for seed in 0..SEEDS {
        let report = run(seed, false);
        faults.add(&report.faults);
        if !report.violations.is_empty() {
            bad.push(report);
        }
    }
    let said: Vec<String> = bad.iter().map(|report| format!("seed {}: {:?}", report.seed, report.violations)).collect();
    assert!(bad.is_empty(), "{}", said.join("\n"));
    assert!(faults.sum() > 50 * SEEDS, "a simulation without faults shows little: {faults:?}");
}

#[test]
fn one_seed_is_one_course_of_events() {
    for seed in [3, 7, 21, 40] {
        let (first, again) = (run(seed, true), run(seed, true));
        let differs = first.lines.iter().zip(&again.lines).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!((first.hash, first.steps, first.faults), (again.hash, again.steps, again.faults), "seed {seed}");
    }
}

#[test]
fn different_seeds_are_different_courses() {
    assert_ne!(run(1, false).hash, run(2, false).hash);
}
