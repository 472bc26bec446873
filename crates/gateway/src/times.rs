//! Whether event times can be right, by the gateway's clock and by what the topic keeps. Pure.

use windrow_protocol::Timestamp;
use windrow_protocol::duration::Length;

use crate::batch::Batch;
use crate::refusal::{Refusal, Refusals};

/// Logs count time in milliseconds from 1970, and 0 is "not known" to some clients of Kafka.
const EARLIEST_MS: i64 = 1;

/// The rows whose time can be right, and why the others can't.
pub fn check(batch: &Batch, now: Timestamp, max_skew: Length, retention_ms: Option<i64>) -> (Vec<usize>, Refusals) {
    let latest = now.plus_micros(max_skew.micros());
    let oldest = |keeps_ms: i64| now.plus_micros(keeps_ms.saturating_mul(-1_000));
    let mut refusals = Refusals::default();
    let mut rows = Vec::with_capacity(batch.len());
    for row in 0..batch.len() {
        let time = batch.time(row);
        let refusal = |reason, message| Refusal { index: batch.index(row), field: "time".to_owned(), reason, message };
        if time.millis() < EARLIEST_MS {
            let advice = "is before 1970: the device's clock was never set";
            refusals.add(|| refusal("TOO_OLD", format!("{time} {advice}")));
        } else if time > latest {
            let advice = format!("ahead of the gateway's clock ({now}); check the device's clock");
            refusals.add(|| refusal("TOO_FAR_AHEAD", format!("{time} is more than {max_skew} {advice}")));
        } else if let Some(ms) = retention_ms
            && time <= oldest(ms)
        {
            let keeps = Length::from_millis(ms);
            let danger = "it could vanish before it is read";
            refusals
                .add(|| refusal("TOO_OLD", format!("{time} is older than the topic's retention ({keeps}): {danger}")));
        } else {
            rows.push(row);
        }
    }
    (rows, refusals)
}

#[cfg(test)]
mod tests {
    use windrow_wire::block::Reading;

    use super::*;

    #[test]
    fn times_up_to_the_skew_ahead_and_younger_than_the_retention_are_taken() {
        let mut batch = Batch::default();
        for second in [-61, -60, -59, 0, 30, 31] {
            batch.push(&Reading { device: "d", time_us: (100 + second) * 1_000_000, seq: None, fields: vec![] });
        }
        let now = Timestamp::from_millis(100_000);
        let (rows, refusals) = check(&batch, now, Length::from_secs(30), Some(60_000));
        assert_eq!(rows, [2, 3, 4]);
        let told: Vec<_> = refusals.first.iter().map(|refusal| (refusal.index, refusal.reason)).collect();
        assert_eq!(told, [(0, "TOO_OLD"), (1, "TOO_OLD"), (5, "TOO_FAR_AHEAD")]);
        assert_eq!(check(&batch, now, Length::from_secs(30), None).0, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn times_of_a_clock_that_was_never_set_are_refused() {
        let mut batch = Batch::default();
        for time_us in [i64::MIN, -1, 0, 999, 1_000] {
            batch.push(&Reading { device: "d", time_us, seq: None, fields: vec![] });
        }
        let (rows, refusals) = check(&batch, Timestamp::from_millis(100_000), Length::from_secs(30), None);
        assert_eq!((rows, refusals.count), (vec![4], 4));
    }
}
