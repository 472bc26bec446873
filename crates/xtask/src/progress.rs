//! Progress on stderr: one line per step, with the time it took. Standard output stays free for results.

use std::time::{Duration, Instant};

/// Prints one line about a part of the work.
pub fn say(who: &str, what: &str) {
    eprintln!("{who:>8}  {what}");
}

/// Runs one named phase and prints how long it took, whether it worked or not.
pub fn timed<T>(who: &str, what: &str, phase: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    let result = phase();
    let outcome = if result.is_ok() { "took" } else { "FAILED after" };
    say(who, &format!("{what} {outcome} {}", human(start.elapsed())));
    result
}

/// A duration as a person says it: `0.4 s`, `12 s`, `5 min 48 s`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 60 { format!("{whole} s") } else { format!("{} min {} s", whole / 60, whole % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_naturally() {
        assert_eq!(human(Duration::from_millis(420)), "0.4 s");
        assert_eq!(human(Duration::from_millis(12_300)), "12 s");
        assert_eq!(human(Duration::from_secs(348)), "5 min 48 s");
    }
}
