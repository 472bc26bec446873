//! Runs seeds: many, to see whether any breaks a promise; or one, to see how.

use std::time::Instant;

use clap::Parser;
use windrow_sim::faults::Counts;
use windrow_sim::run::{Report, run};

#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every step of it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 20)]
    max_failures: usize,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let failures = match args.seed {
        Some(seed) => one(seed, args.trace),
        None => many(args.from, args.seeds, args.max_failures),
    };
    if failures == 0 { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn failure(report: &Report) {
    for violation in &report.violations {
        println!("seed {} FAILED at {:.3} s: {violation}", report.seed, report.virtual_time.as_secs_f64());
    }
}

fn one(seed: u64, trace: bool) -> usize {
    let report = run(seed, trace);
    report.lines.iter().for_each(|line| println!("{line}"));
    println!(
        "seed {seed}: {:.0} virtual s, {} steps, {} readings, hash {:016x}",
        report.virtual_time.as_secs_f64(),
        report.steps,
        report.readings,
        report.hash
    );
    report.faults.0.iter().for_each(|(fault, n)| println!("  {fault:?} {n}"));
    failure(&report);
    usize::from(!report.violations.is_empty())
}

fn many(from: u64, seeds: u64, max_failures: usize) -> usize {
    let (began, mut faults, mut failures) = (Instant::now(), Counts::default(), 0);
    let (mut seconds, mut readings, mut done) = (0.0, 0, 0);
    for seed in from..from.saturating_add(seeds) {
        let report = run(seed, false);
        faults.add(&report.faults);
        seconds += report.virtual_time.as_secs_f64();
        (readings, done) = (readings + report.readings, done + 1);
        if !report.violations.is_empty() {
            failure(&report);
            failures += 1;
        }
        if done % 100 == 0 || seed + 1 == from.saturating_add(seeds) || failures >= max_failures {
            let spent = began.elapsed().as_secs_f64();
            println!(
                "{done} seeds in {spent:.1} s: {failures} failed, {} faults, {readings} readings, {:.0} virtual s per s",
                faults.sum(),
                seconds / spent
            );
        }
        if failures >= max_failures {
            break;
        }
    }
    faults.0.iter().for_each(|(fault, n)| println!("  {fault:?} {n}"));
    failures
}
