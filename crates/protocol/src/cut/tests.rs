//! Cutting against a brute-force oracle that looks at every reading of the log.

use proptest::prelude::*;

use super::*;
use crate::WindowSpec;

const SECOND_US: i64 = 1_000_000;
const LATENESS_S: i64 = 20;

/// A log of blocks; each block holds event times (seconds). Its timestamp is the latest.
type Log = Vec<Vec<i64>>;

fn calendar() -> Calendar {
    WindowSpec::new("10s".parse().unwrap(), "UTC").calendar().unwrap()
}

fn timestamp(block: &[i64]) -> Timestamp {
    Timestamp::from_micros(block.iter().max().copied().unwrap_or(0) * SECOND_US)
}

fn look_up(log: &Log, t: Timestamp) -> Lookup {
    log.iter().position(|block| timestamp(block) >= t).map_or(Lookup::Beyond, |i| Lookup::At(Offset(i as i64)))
}

/// A batch, and what the worker makes of it by the ownership rule.
#[derive(Default)]
struct Fate {
    on_time: u32,
    late: u32,
}

/// Runs the cutter over a growing log, as the coordinator does, and counts the fate of every reading.
/// `steps`: lengths of the log at which the coordinator looks; `idle`: whether the partition counts as idle then.
fn run(log: &Log, steps: &[(usize, bool)]) -> Vec<Vec<Fate>> {
    let calendar = calendar();
    let lateness = Length::from_secs(LATENESS_S);
    let mut fates: Vec<Vec<Fate>> = log.iter().map(|block| block.iter().map(|_| Fate::default()).collect()).collect();
    let mut cursor: Option<Cursor> = None;
    for &(visible, idle) in steps {
        let log: Log = log[..visible].to_vec();
        let Some(first) = log.first() else { continue };
        let mut at = cursor.take().unwrap_or_else(|| Cursor {
            topic_id: TopicId::new("t").unwrap(),
            sealed_through: first_window(&calendar, lateness, Length::default(), timestamp(first)).start,
            end: Offset(0),
            next_start: Offset(0),
            pace: None,
        });
        let newest = log.iter().map(|block| timestamp(block)).max();
        for round in 0.. {
            assert!(round < 10_000, "a gap is one run, not a batch per window");
            let window = calendar.window_of(at.sealed_through);
            let idle = idle
                && may_seal_idle(window, lateness, Length::from_secs(1), Length::from_secs(1), newest, Timestamp::MAX);
            let seen = Observed {
                log_start: Offset(0),
                high_watermark: Offset(log.len() as i64),
                at_end: look_up(&log, window.end.plus_micros(lateness.micros())),
                at_next: look_up(&log, window.end),
                idle,
            };
            let Cut::Seal(seal) = cut(&at, seen) else { break };
            assert!(seal.owned.end >= at.end, "ends are monotone");
            assert_eq!(seal.owned.start, at.end, "ownership has no gap and no overlap");
            assert_eq!(seal.lost, None);
            for offset in seal.read.start.0..seal.read.end.0 {
                for (i, &event) in log[offset as usize].iter().enumerate() {
                    let t = Timestamp::from_micros(event * SECOND_US);
                    let fate = &mut fates[offset as usize][i];
                    if window.contains(t) {
                        fate.on_time += 1;
                    } else if t < window.start && seal.owned.contains(Offset(offset)) {
                        fate.late += 1;
                    }
                }
            }
            at = advance(&at, window, &seal);
            if seal.read.is_empty()
                && let Lookup::At(next) = seen.at_end
            {
                let skip = skip_to(&calendar, lateness, Length::default(), timestamp(&log[next.0 as usize]));
                at.sealed_through = at.sealed_through.max(skip);
            }
        }
        cursor = Some(at);
    }
    fates
}

fn blocks() -> impl Strategy<Value = Log> {
    let block = (0i64..400, prop::collection::vec(-15i64..15, 1..6))
        .prop_map(|(at, spread)| spread.into_iter().map(|s| at + s).collect::<Vec<_>>());
    let jump = prop::sample::select(vec![0i64, 0, 0, 1_000, 500_000]);
    prop::collection::vec((block, jump), 0..40).prop_map(|blocks| {
        let mut base = 0;
        blocks
            .into_iter()
            .map(|(block, jump)| {
                base += jump;
                block.into_iter().map(|t| t + base).collect()
            })
            .collect()
    })
}

fn looks(len: usize) -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((0..=len, any::<bool>()), 0..8).prop_map(move |mut steps| {
        steps.sort_unstable();
        // At last everything is visible, and the record far in the future that closes every window before it.
        steps.push((len, true));
        steps.push((len + 1, true));
        steps
    })
}

fn cases() -> u32 {
    std::env::var("WINDROW_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn every_reading_is_on_time_in_one_batch_or_late_in_one_batch_whatever_the_disorder(
        (log, steps) in blocks().prop_flat_map(|log| { let len = log.len(); (Just(log), looks(len)) })
    ) {
        let mut closed = log.clone();
        closed.push(vec![10_000_000_000]);
        for (offset, fates) in run(&closed, &steps)[..log.len()].iter().enumerate() {
            for (i, fate) in fates.iter().enumerate() {
                prop_assert_eq!(fate.on_time + fate.late, 1, "offset {} reading {} at {}s: on time {} times, late {} times", offset, i, log[offset][i], fate.on_time, fate.late);
            }
        }
    }
}

fn cursor(sealed_s: i64, end: i64, next_start: i64) -> Cursor {
    Cursor {
        topic_id: TopicId::new("t").unwrap(),
        sealed_through: Timestamp::from_micros(sealed_s * SECOND_US),
        end: Offset(end),
        next_start: Offset(next_start),
        pace: None,
    }
}

fn seen(at_end: Lookup, at_next: Lookup) -> Observed {
    Observed { log_start: Offset(0), high_watermark: Offset(100), at_end, at_next, idle: false }
}

#[test]
fn a_window_waits_for_a_record_that_proves_it_over() {
    assert_eq!(cut(&cursor(0, 0, 0), seen(Lookup::Beyond, Lookup::At(Offset(5)))), Cut::Wait);
}

#[test]
fn an_answer_at_or_beyond_the_high_watermark_is_not_used() {
    assert_eq!(cut(&cursor(0, 0, 0), seen(Lookup::At(Offset(100)), Lookup::At(Offset(5)))), Cut::Wait);
    let idle = Observed { idle: true, ..seen(Lookup::Beyond, Lookup::At(Offset(100))) };
    assert_eq!(cut(&cursor(0, 0, 0), idle), Cut::Wait);
}

#[test]
fn a_log_that_has_lost_its_end_is_waited_for_and_one_without_news_is_not() {
    let idle = |high_watermark| Observed {
        high_watermark: Offset(high_watermark),
        idle: true,
        ..seen(Lookup::Beyond, Lookup::Beyond)
    };
    assert_eq!(cut(&cursor(0, 40, 30), idle(20)), Cut::Wait);
    assert_eq!(cut(&cursor(0, 40, 30), idle(39)), Cut::Wait);
    let Cut::Seal(seal) = cut(&cursor(0, 40, 30), idle(40)) else { panic!("sealed") };
    assert_eq!((seal.owned.len(), seal.next_start), (0, Offset(40)));
}

#[test]
fn an_idle_partition_is_sealed_at_the_high_watermark() {
    let idle = Observed { idle: true, ..seen(Lookup::Beyond, Lookup::Beyond) };
    let Cut::Seal(seal) = cut(&cursor(0, 40, 30), idle) else { panic!("sealed") };
    assert_eq!(
        (seal.read, seal.owned),
        (OffsetRange::new(Offset(30), Offset(100)), OffsetRange::new(Offset(40), Offset(100)))
    );
    assert_eq!((seal.sealed_by, seal.next_start), (SealedBy::Idle, Offset(100)));
}

#[test]
fn a_block_of_the_next_window_before_an_idle_seal_is_read_again_for_that_window() {
    let idle = Observed { idle: true, ..seen(Lookup::Beyond, Lookup::At(Offset(60))) };
    let Cut::Seal(seal) = cut(&cursor(0, 40, 30), idle) else { panic!("sealed") };
    assert_eq!((seal.owned.end, seal.next_start), (Offset(100), Offset(60)));
}

#[test]
fn a_batch_without_offsets_has_lost_none() {
    let passed = Observed { log_start: Offset(60), ..seen(Lookup::At(Offset(50)), Lookup::At(Offset(50))) };
    let Cut::Seal(seal) = cut(&cursor(0, 50, 50), passed) else { panic!("sealed") };
    assert_eq!((seal.read.is_empty(), seal.lost), (true, None));
}

#[test]
fn retention_that_passed_the_start_is_reported_with_the_lost_range() {
    let seen = Observed { log_start: Offset(35), ..seen(Lookup::At(Offset(50)), Lookup::At(Offset(45))) };
    let Cut::Seal(seal) = cut(&cursor(0, 40, 30), seen) else { panic!("sealed") };
    assert_eq!(seal.lost, Some(OffsetRange::new(Offset(30), Offset(35))));
}

#[test]
fn a_gap_of_years_is_one_run() {
    let skip = skip_to(
        &calendar(),
        Length::from_secs(LATENESS_S),
        Length::default(),
        Timestamp::from_micros(1_000_000_007 * SECOND_US),
    );
    assert_eq!(skip, Timestamp::from_micros(999_999_980 * SECOND_US));
}

#[test]
fn a_job_begins_early_enough_for_readings_out_of_order_by_lateness_and_bound() {
    let (lateness, bound) = (Length::from_secs(LATENESS_S), Length::from_secs(30));
    let at = |s: i64| Timestamp::from_micros(s * SECOND_US);
    // The oldest record, at 105 s, may hold readings from 55 s on.
    assert_eq!(first_window(&calendar(), lateness, bound, at(105)).start, at(50));
    assert_eq!(skip_to(&calendar(), lateness, bound, at(105)), at(50));
}

#[test]
fn idle_sealing_needs_silence_the_clock_and_a_window_that_has_begun() {
    let window = calendar().window_of(Timestamp::from_micros(100 * SECOND_US));
    let ok = |silent_s, newest_s: Option<i64>, now_s: i64| {
        let newest = newest_s.map(|s| Timestamp::from_micros(s * SECOND_US));
        let now = Timestamp::from_micros(now_s * SECOND_US);
        may_seal_idle(window, Length::from_secs(20), Length::from_secs(5), Length::from_secs(silent_s), newest, now)
    };
    assert!(ok(5, Some(100), 130));
    assert!(!ok(4, Some(100), 130), "not silent for long enough");
    assert!(!ok(5, Some(100), 129), "the wall clock has not passed end + lateness");
    assert!(!ok(5, Some(99), 130), "no partition has reached the window");
    assert!(!ok(5, None, 130), "the topic is empty");
}

#[test]
fn beyond_the_newest_record_a_window_begins_where_offsets_are_unread_or_another_partition_is_sealed() {
    let at = |s: i64| Some(Timestamp::from_micros(s * SECOND_US));
    let cursor = cursor(200, 7, 7);
    assert_eq!(begun(&cursor, Offset(7), at(150), at(200)), at(150), "all is owned and level: nothing is known beyond");
    assert_eq!(begun(&cursor, Offset(8), at(150), at(200)), at(200), "a straggler waits for an owner");
    assert_eq!(begun(&cursor, Offset(7), at(150), at(300)), at(200), "another partition waits for this one");
    assert_eq!(
        begun(&cursor, Offset(8), None, at(200)),
        at(200),
        "the straggler is gone from the log: a loss to report"
    );
    let behind = Cursor { end: Offset(9), ..cursor };
    assert_eq!(begun(&behind, Offset(9), at(150), at(200)), at(200), "what the next window was to read is gone");
}

#[test]
fn a_window_of_volume_begins_where_the_one_before_it_was_found_to_end() {
    let seen = |through, records, amount| Seen { through: Offset(through), records, amount, times: None };
    let begun = Cursor::of_volume(TopicId::new("t").unwrap(), Offset(7));
    assert_eq!((begun.end, begun.next_start, begun.pace), (Offset(7), Offset(7), Some(Pace::default())));
    let first = begun.after(&seen(12, 5, 104));
    assert_eq!(
        (first.end, first.next_start, first.pace),
        (Offset(12), Offset(12), Some(Pace { records: 5, amount: 104 }))
    );
    let second = first.after(&seen(20, 8, 90));
    assert_eq!(second.pace, Some(Pace { records: 10, amount: 142 }), "older windows count half");
}
