//! Whether a job can work on its topic: what the topic's settings say, and what its time index says of old readings.
//! Transactions can't be seen in a topic's settings, so they are not checked here.

use windrow_ports::LogError;
use windrow_ports::log::{Bounds, TopicInfo};
use windrow_protocol::cut::Lookup;
use windrow_protocol::duration::Length;
use windrow_protocol::job::{LatePolicy, LateRule, Violation};
use windrow_protocol::{JobFile, JobSpec, PartitionId, Timestamp, TopicName};

use super::Api;
use super::checks::Checked;

const PATH: &str = "spec.source.topic";

/// The reason of a refusal that a job can live with once it runs: what is lost is reported.
pub(crate) const RETENTION_TOO_SHORT: &str = "RETENTION_TOO_SHORT";

/// What the topic's settings rule out.
pub(crate) fn refusals(spec: &JobSpec, info: &TopicInfo) -> Vec<Violation> {
    let topic = &spec.source.topic;
    let mut violations = Vec::new();
    if info.compacted {
        let message =
            format!("topic {topic} is compacted (cleanup.policy): its records vanish, so counting them is impossible");
        violations.push(Violation::new(PATH, "COMPACTED_TOPIC", message));
    }
    if info.append_time {
        let message = format!(
            "topic {topic} has message.timestamp.type=LogAppendTime: its time index is not of event time; set it to \
             CreateTime"
        );
        violations.push(Violation::new(PATH, "LOG_APPEND_TIME", message));
    }
    violations.extend(info.retention_ms.and_then(|ms| retention(spec, Length::from_millis(ms))));
    violations
}

/// A window's first readings must be there until its last have come.
fn retention(spec: &JobSpec, kept: Length) -> Option<Violation> {
    // The look-ups move by the bound on either side of the window. Those of volume know no lateness.
    let around_ms = match spec.window.volume() {
        Some(_) => 0,
        None => spec.lateness.millis() + 2 * spec.time_bound().millis(),
    };
    let needed_ms = spec.window.longest().millis() + around_ms;
    let missing = needed_ms - kept.millis();
    if missing <= 0 {
        return None;
    }
    let (needed, missing) = (Length::from_millis(needed_ms), Length::from_millis(missing));
    let message = format!(
        "topic {} keeps records for {kept} (retention.ms), {missing} less than a window and its lateness need: {needed}. \
         Raise retention.ms to {needed_ms} or more, or make windows shorter and add their results up",
        spec.source.topic
    );
    Some(Violation::new(PATH, RETENTION_TOO_SHORT, message))
}

/// Amending reads a window's offsets again, at most the reach later.
fn short_for_amending(spec: &JobSpec, kept: Length) -> Option<String> {
    let LateRule { policy, reach } = spec.late_rule();
    let needed = Length::from_millis(spec.window.longest().millis() + spec.lateness.millis() + reach.millis());
    (policy == LatePolicy::Amend && kept < needed).then(|| {
        format!(
            "topic {} keeps records for {kept} (retention.ms), but late: amend reads windows again for up to {needed}: late \
             readings of older ones will be set aside",
            spec.source.topic
        )
    })
}

/// Partitions whose oldest records are past the topic's retention by their event time: the broker may drop those any time.
fn with_old_readings(bounds: &[Bounds], look_ups: &[Lookup]) -> usize {
    let old = |(bounds, at): (&Bounds, &Lookup)| match at {
        Lookup::At(offset) => *offset > bounds.log_start,
        Lookup::Beyond => bounds.high_watermark > bounds.log_start,
    };
    bounds.iter().zip(look_ups).filter(|pair| old(*pair)).count()
}

impl Api {
    pub(super) async fn check_topic(&self, file: &JobFile, checked: &mut Checked) {
        let topic = &file.spec.source.topic;
        match self.look_at_topic(file).await {
            Ok((violations, warning)) => checked.done("topic", violations, warning),
            Err(LogError::NoTopic(_)) => {
                let note = format!("topic {topic} does not exist yet; the job waits for it");
                checked.done("topic", vec![], Some(note));
            }
            Err(error) => {
                checked.skipped("topic", error.to_string());
                checked.unavailable = Some(error.to_string());
            }
        }
    }

    async fn look_at_topic(&self, file: &JobFile) -> Result<(Vec<Violation>, Option<String>), LogError> {
        let topic = &file.spec.source.topic;
        let info = self.parts.log.topic(topic).await?;
        let violations = refusals(&file.spec, &info);
        let warning = match info.retention_ms {
            Some(ms) if violations.is_empty() => {
                let kept = Length::from_millis(ms);
                let old = self.old_readings(topic, info.partitions, kept).await?;
                let all: Vec<String> = old.into_iter().chain(short_for_amending(&file.spec, kept)).collect();
                (!all.is_empty()).then(|| all.join("; "))
            }
            _ => None,
        };
        Ok((violations, warning))
    }

    /// Retention counts event time: readings that are replayed or come from a long outage are old on arrival.
    async fn old_readings(&self, topic: &TopicName, partitions: i32, kept: Length) -> Result<Option<String>, LogError> {
        let all: Vec<PartitionId> = (0..partitions).map(PartitionId).collect();
        let bounds = self.parts.log.bounds(topic, &all).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        let since: Timestamp = self.now().plus_micros(-kept.micros());
        let times: Vec<_> = all.iter().map(|partition| (*partition, since)).collect();
        let found = self.parts.log.look_up(topic, &times).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        let old = with_old_readings(&bounds, &found);
        Ok((old > 0).then(|| {
            format!(
                "topic {topic} keeps records for {kept} of event time (retention.ms), and {old} of its {partitions} \
                 partitions hold readings older than that: they vanish as soon as their segment rolls. For replays keep \
                 by size: retention.ms=-1 with retention.bytes"
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use windrow_protocol::{Offset, TopicId};

    use super::*;

    fn spec(every: &str, lateness: &str) -> JobSpec {
        let text = format!(
            r#"{{"source": {{"topic": "t"}}, "window": {{"every": "{every}"}}, "lateness": "{lateness}", "map": "SELECT 1"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn info(retention: Option<&str>) -> TopicInfo {
        let retention_ms = retention.map(|text| text.parse::<Length>().unwrap().millis());
        TopicInfo { retention_ms, ..TopicInfo::new(TopicId::new("i").unwrap(), 1) }
    }

    fn reasons(spec: &JobSpec, info: &TopicInfo) -> Vec<String> {
        refusals(spec, info).into_iter().map(|violation| violation.reason).collect()
    }

    #[test]
    fn compacted_and_append_time_topics_are_refused() {
        let bad = TopicInfo { compacted: true, append_time: true, ..info(None) };
        assert_eq!(reasons(&spec("1h", "10m"), &bad), ["COMPACTED_TOPIC", "LOG_APPEND_TIME"]);
    }

    #[test]
    fn retention_must_outlast_window_and_lateness_and_the_refusal_says_by_how_much() {
        let hour = spec("1h", "10m");
        assert_eq!(reasons(&hour, &info(Some("1h10m"))), Vec::<String>::new());
        assert_eq!(reasons(&hour, &info(None)), Vec::<String>::new(), "kept by size only");
        let said = &refusals(&hour, &info(Some("1h")))[0];
        assert_eq!(said.reason, "RETENTION_TOO_SHORT");
        assert!(
            said.message.contains("10m less") && said.message.contains("retention.ms to 4200000"),
            "{}",
            said.message
        );
        assert_eq!(reasons(&spec("month", "10m"), &info(Some("7d"))), ["RETENTION_TOO_SHORT"]);
        let of_volume = |within: &str| {
            let window = format!(r#"{{"every": "volume", "readings": 5{within}}}"#);
            let text = format!(r#"{{"source": {{"topic": "t"}}, "window": {window}, "map": "SELECT 1"}}"#);
            reasons(&serde_json::from_str(&text).unwrap(), &info(Some("1h")))
        };
        assert_eq!(of_volume(""), Vec::<String>::new(), "who knows how long it takes");
        assert_eq!(of_volume(r#", "within": "1h""#), Vec::<String>::new());
        assert_eq!(of_volume(r#", "within": "2h""#), ["RETENTION_TOO_SHORT"]);
    }

    #[test]
    fn who_amends_is_told_when_the_topic_keeps_less_than_the_reach() {
        let amending = JobSpec { late: LatePolicy::Amend, ..spec("1h", "10m") };
        let kept = |text: &str| text.parse::<Length>().unwrap();
        assert!(short_for_amending(&amending, kept("7d")).unwrap().contains("7d1h10m"));
        assert_eq!(short_for_amending(&amending, kept("8d")), None);
        assert_eq!(short_for_amending(&spec("1h", "10m"), kept("2h")), None);
    }

    #[test]
    fn only_partitions_that_hold_readings_past_retention_are_counted() {
        let bounds = |log_start, end| Bounds { log_start: Offset(log_start), high_watermark: Offset(end) };
        let seen = [
            (bounds(0, 0), Lookup::Beyond, 0),
            (bounds(5, 9), Lookup::At(Offset(5)), 0),
            (bounds(5, 9), Lookup::At(Offset(7)), 1),
            (bounds(5, 9), Lookup::Beyond, 1),
        ];
        for (bounds, at, old) in seen {
            assert_eq!(with_old_readings(&[bounds], &[at]), old, "{bounds:?} {at:?}");
        }
    }
}
