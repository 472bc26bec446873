//! Clocks, memory and medians. CPU time is that of the whole process, all its threads.

use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks per second in `/proc/PID/stat`: the same on every Linux.
const TICKS: u64 = 100;

/// CPU time of this process so far, threads that have ended included.
pub fn own_cpu() -> Result<Duration> {
    cpu_of(std::process::id())
}

/// CPU time of a process so far, to 10 ms.
pub fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before the last parenthesis may hold anything; utime and stime are the 12th and 13th after it.
    let fields = stat.rsplit_once(')').context("/proc/PID/stat has another form")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS))
}

/// A memory line of `/proc/PID/status` in bytes: `VmRSS` now, `VmHWM` at most so far.
pub fn memory_of(pid: &str, what: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("no such line in /proc/PID/status")?;
    let kib: u64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse()?;
    Ok(kib * 1_024)
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle_and_own_figures_can_be_read() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(cpu_of(1).unwrap() >= Duration::ZERO && own_cpu().unwrap() < Duration::from_secs(3_600));
        // The peak is asked last: memory may grow in between.
        let resident = memory_of("self", "VmRSS").unwrap();
        assert!(memory_of("self", "VmHWM").unwrap() >= resident);
    }
}
