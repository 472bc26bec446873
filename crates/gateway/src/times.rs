//! Whether event times can be right, by the gateway's clock and by what the topic keeps. Pure.

use windrow_ports::log::TopicInfo;
use windrow_protocol::Timestamp;
use windrow_protocol::duration::Length;

use crate::batch::Batch;
use crate::refusal::{Refusal, Refusals};

/// Logs count time in milliseconds from 1970, and 0 is "not known" to some clients of Kafka.
const EARLIEST_MS: i64 = 1;

/// How long what is taken may be on its way in milliseconds: a broker judges times when they arrive.
const ON_ITS_WAY_MS: i64 = 60_000;

/// The rows whose time can be right, and why the others can't. One that the topic does not take would have all refused that
/// are sent with it.
pub fn check(batch: &Batch, now: Timestamp, max_skew: Length, topic: &TopicInfo) -> (Vec<usize>, Refusals) {
    let max_ahead = topic.max_ahead_ms.map_or(max_skew, |ms| max_skew.min(Length::from_millis(ms)));
    let latest = now.plus_micros(max_ahead.micros());
    let oldest = |keeps_ms: i64| now.plus_micros(keeps_ms.saturating_mul(-1_000));
    let taken_from = topic.max_behind_ms.map_or(Timestamp::MIN, |ms| oldest(ms.saturating_sub(ON_ITS_WAY_MS)));
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
            refusals.add(|| refusal("TOO_FAR_AHEAD", format!("{time} is more than {max_ahead} {advice}")));
        } else if time < taken_from {
            let takes = Length::from_millis(topic.max_behind_ms.unwrap_or_default());
            let advice = format!("older than the topic takes ({takes}): raise its message.timestamp.before.max.ms");
            refusals.add(|| refusal("TOO_OLD", format!("{time} is {advice}")));
        } else if let Some(ms) = topic.retention_ms
            && time <= oldest(ms)
        {
            let keeps = Length::from_millis(ms);
            let danger = "it could vanish before it is read; make that longer (retention.ms, -1 for ever)";
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

    fn topic() -> TopicInfo {
        TopicInfo::new(windrow_protocol::TopicId::new("i").unwrap(), 1)
    }

    #[test]
    fn times_up_to_the_skew_ahead_and_younger_than_the_retention_are_taken() {
        let mut batch = Batch::default();
        for second in [-61, -60, -59, 0, 30, 31] {
            batch.push(&Reading { device: "d", time_us: (100 + second) * 1_000_000, seq: None, fields: vec![] });
        }
        let now = Timestamp::from_millis(100_000);
        let (rows, refusals) =
            check(&batch, now, Length::from_secs(30), &TopicInfo { retention_ms: Some(60_000), ..topic() });
        assert_eq!(rows, [2, 3, 4]);
        let told: Vec<_> = refusals.first.iter().map(|refusal| (refusal.index, refusal.reason)).collect();
        assert_eq!(told, [(0, "TOO_OLD"), (1, "TOO_OLD"), (5, "TOO_FAR_AHEAD")]);
        assert_eq!(check(&batch, now, Length::from_secs(30), &topic()).0, [0, 1, 2, 3, 4]);
    }

    /// With a minute for the way there.
    #[test]
    fn times_that_the_topic_does_not_take_are_refused_one_by_one() {
        let mut batch = Batch::default();
        for second in [-61, -60, 0, 10, 11] {
            batch.push(&Reading { device: "d", time_us: (1_000 + second) * 1_000_000, seq: None, fields: vec![] });
        }
        let topic = TopicInfo { max_behind_ms: Some(120_000), max_ahead_ms: Some(10_000), ..topic() };
        let (rows, refusals) = check(&batch, Timestamp::from_millis(1_000_000), Length::from_secs(30), &topic);
        assert_eq!(rows, [1, 2, 3]);
        assert!(refusals.first[0].message.contains("message.timestamp.before.max.ms"), "{refusals:?}");
        assert_eq!(refusals.first[1].reason, "TOO_FAR_AHEAD");
    }

    #[test]
    fn times_of_a_clock_that_was_never_set_are_refused() {
        let mut batch = Batch::default();
        for time_us in [i64::MIN, -1, 0, 999, 1_000] {
            batch.push(&Reading { device: "d", time_us, seq: None, fields: vec![] });
        }
        let (rows, refusals) = check(&batch, Timestamp::from_millis(100_000), Length::from_secs(30), &topic());
        assert_eq!((rows, refusals.count), (vec![4], 4));
    }
}
