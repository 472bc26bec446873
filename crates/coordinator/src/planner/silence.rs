//! How long partitions have been silent, by looks at their ends.

use std::collections::HashMap;
use std::time::Duration;

use windrow_protocol::duration::Length;
use windrow_protocol::{Offset, PartitionId, Timestamp};

/// The shortest time between two looks that tells of a log that was away.
const LEAST_GAP: Duration = Duration::from_secs(2);

/// Since when each partition's high watermark has stood still; kept between two looks at a job.
#[derive(Debug, Default)]
pub struct Silence {
    seen: HashMap<PartitionId, Seen>,
    /// The latest record timestamp of the topic, and the sum of the high watermarks that it was found at.
    pub(super) newest: Option<(i64, Option<Timestamp>)>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    high_watermark: Offset,
    since: Duration,
    last_look: Duration,
}

impl Silence {
    /// How long a partition has been silent while it was looked at. Nobody could write while the log was away, so a gap
    /// of half the idle timeout between two looks begins the silence anew; but at least of [`LEAST_GAP`], since looks
    /// take time too, and with a short timeout a slow leader would never find a partition silent.
    pub(super) fn note(
        &mut self,
        partition: PartitionId,
        high_watermark: Offset,
        now: Duration,
        idle_timeout: Length,
    ) -> Length {
        let first = Seen { high_watermark, since: now, last_look: now };
        let seen = self.seen.entry(partition).or_insert(first);
        let gap = now.saturating_sub(seen.last_look);
        let longest = LEAST_GAP.max(Duration::from_millis(idle_timeout.millis().unsigned_abs() / 2));
        if seen.high_watermark != high_watermark || gap > longest {
            *seen = first;
        }
        seen.last_look = now;
        Length::from_millis(i64::try_from(now.saturating_sub(seen.since).as_millis()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a partition counts as silent after looks at these times, in ms, with this idle timeout.
    fn silent_after(looks: &[(u64, i64)], idle_ms: i64) -> i64 {
        let mut silence = Silence::default();
        let mut note = |(ms, high_watermark): &(u64, i64)| {
            let (end, now) = (Offset(*high_watermark), Duration::from_millis(*ms));
            silence.note(PartitionId(0), end, now, Length::from_millis(idle_ms)).millis()
        };
        looks.iter().map(&mut note).last().unwrap()
    }

    #[test]
    fn silence_lasts_from_the_last_new_record_on() {
        assert_eq!(silent_after(&[(0, 5), (1_000, 5), (2_000, 5)], 10_000), 2_000);
        assert_eq!(silent_after(&[(0, 5), (1_000, 6), (2_000, 6)], 10_000), 1_000);
    }

    #[test]
    fn time_without_looks_is_no_silence() {
        assert_eq!(silent_after(&[(0, 5), (1_000, 5), (7_000, 5), (8_000, 5)], 10_000), 1_000);
        assert_eq!(
            silent_after(&[(0, 5), (5_000, 5), (10_000, 5)], 10_000),
            10_000,
            "half the timeout is not too long"
        );
    }

    #[test]
    fn a_short_timeout_is_reached_though_looks_are_further_apart() {
        assert_eq!(silent_after(&[(0, 5), (900, 5), (1_800, 5)], 300), 1_800);
    }
}
