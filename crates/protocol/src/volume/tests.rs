use proptest::prelude::*;

use super::*;

/// A record: its timestamp in ms, readings and bytes.
type Record = (i64, u64, u64);

const START: i64 = 1_000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn until(amount: Amount, within_ms: Option<i64>) -> Until {
    Until { amount, within: within_ms.map(Length::from_millis) }
}

/// Reads records as an attempt does, up to the end of the log.
fn read(until: Until, start: i64, records: &[Record]) -> Result<Seen, Seen> {
    let mut fill = Fill::new(until, Offset(start));
    for (i, (ms, readings, bytes)) in (0..).zip(records) {
        if !fill.admits(Offset(start + i), at(*ms)) {
            break;
        }
        fill.add(*readings, *bytes);
        if fill.has_ended() {
            break;
        }
    }
    let has_ended = fill.has_ended();
    let closed = fill.close(Offset(start + records.len() as i64));
    assert_eq!(has_ended, closed.is_ok(), "who reads stops as soon as it has ended");
    closed
}

/// How many records the window has, the slow and obvious way: the shortest prefix that is a window. `None`: none is.
fn oracle(until: Until, records: &[Record]) -> Option<usize> {
    let counted = |record: &Record| match until.amount {
        Amount::Readings(_) => record.1,
        Amount::Bytes(_) => record.2,
    };
    (1..=records.len()).find(|n| {
        let is_full = records[..*n].iter().map(counted).sum::<u64>() >= until.amount.number();
        let next = records.get(*n);
        let is_over = until.within.zip(next).is_some_and(|(within, next)| next.0 >= records[0].0 + within.millis());
        is_full || is_over
    })
}

fn untils() -> impl Strategy<Value = Until> {
    let amount = prop_oneof![(1u64..60).prop_map(Amount::Readings), (1u64..600).prop_map(Amount::Bytes)];
    (amount, prop::option::of(1i64..50)).prop_map(|(amount, within)| until(amount, within))
}

fn logs() -> impl Strategy<Value = Vec<Record>> {
    // Mostly forward in time, with stragglers; some records hold nothing.
    let record = (prop_oneof![4 => 0i64..8, 1 => -40i64..0], 0u64..9, 0u64..90);
    prop::collection::vec(record, 0..60).prop_map(|steps| {
        let mut ms = 0;
        let stamp = |(step, readings, bytes): (i64, u64, u64)| {
            ms += step.max(0);
            (ms + step.min(0), readings, bytes)
        };
        steps.into_iter().map(stamp).collect()
    })
}

proptest! {
    #[test]
    fn a_window_is_the_shortest_run_of_records_that_is_full_or_over(until in untils(), log in logs()) {
        let found = read(until, START, &log);
        match oracle(until, &log) {
            Some(n) => {
                let seen = found.expect("it has ended");
                prop_assert_eq!((seen.through, seen.records), (Offset(START + n as i64), n as u64));
                let stamps = || log[..n].iter().map(|record| at(record.0));
                let times = Times { first: at(log[0].0), earliest: stamps().min().unwrap(), latest: stamps().max().unwrap() };
                prop_assert_eq!(seen.times, Some(times));
            }
            None => {
                let seen = found.expect_err("it has not ended");
                prop_assert_eq!((seen.through, seen.records), (Offset(START + log.len() as i64), log.len() as u64));
            }
        }
    }

    #[test]
    fn the_end_is_the_same_however_much_of_the_log_an_attempt_sees(until in untils(), log in logs(), more in logs()) {
        if let Ok(found) = read(until, START, &log) {
            let grown: Vec<Record> = log.iter().chain(&more).copied().collect();
            prop_assert_eq!(read(until, START, &grown), Ok(found));
        }
    }

    #[test]
    fn windows_tile_a_log_and_each_but_the_open_one_would_not_be_full_without_its_last_record(n in 1u64..60, log in logs()) {
        let (until, mut start, mut windows) = (until(Amount::Readings(n), None), 0, Vec::new());
        while let Ok(seen) = read(until, start as i64, &log[start..]) {
            prop_assert!(seen.through.0 > start as i64, "a window has a record");
            windows.push((start, seen.through.0 as usize));
            start = seen.through.0 as usize;
        }
        let readings = |from: usize, to: usize| log[from..to].iter().map(|record| record.1).sum::<u64>();
        for (from, to) in windows {
            prop_assert!(readings(from, to) >= n && readings(from, to - 1) < n);
        }
        prop_assert!(readings(start, log.len()) < n);
    }

    #[test]
    fn a_batch_is_handed_out_again_only_when_the_log_has_grown(until in untils(), log in logs(), silent in any::<bool>()) {
        let Err(seen) = read(until, START, &log) else { return Ok(()) };
        let full_at = likely_full_at(until.amount, &seen, Pace::default());
        let waiting = Waiting { seen, until: Some(full_at.unwrap_or(seen.through.next())) };
        let observed = Observed { high_watermark: seen.through, at_over: None, silent, now: Timestamp::MIN };
        let offered = offer(&until, Offset(START), &waiting, observed);
        prop_assert!(offered == Offer::Wait || matches!(offered, Offer::Seal(_)), "{offered:?}");
        prop_assert!(full_at.is_none_or(|at| at > seen.through));
    }
}

#[test]
fn a_window_that_has_not_ended_was_looked_through_up_to_the_end_also_where_offsets_have_no_record() {
    let mut fill = Fill::new(until(Amount::Readings(100), None), Offset(START));
    assert!(fill.admits(Offset(START), at(0)));
    fill.add(7, 70);
    let seen = fill.close(Offset(START + 3)).expect_err("it has not ended");
    assert_eq!((seen.through, seen.records, seen.amount), (Offset(START + 3), 1, 7));
}

#[test]
fn an_estimate_is_the_windows_own_average_or_that_of_the_windows_before() {
    let seen = |records, amount| Seen { through: Offset(START + records as i64), records, amount, times: None };
    let thousand = Amount::Readings(1_000);
    let pace = Pace { records: 10, amount: 1_000 };
    assert_eq!(likely_full_at(thousand, &seen(0, 0), Pace::default()), None, "nothing is known");
    assert_eq!(likely_full_at(thousand, &seen(0, 0), pace), Some(Offset(START + 10)));
    assert_eq!(likely_full_at(thousand, &seen(10, 500), pace), Some(Offset(START + 20)));
    assert_eq!(likely_full_at(thousand, &seen(3, 999), pace), Some(Offset(START + 4)), "at least one record");
    assert_eq!(likely_full_at(thousand, &seen(640, 999), pace), Some(Offset(START + 650)), "at least a part of it");
    assert_eq!(likely_full_at(thousand, &seen(8, 0), pace), Some(Offset(START + 18)), "by the windows before");
    assert_eq!(likely_full_at(thousand, &seen(8, 0), Pace::default()), Some(Offset(START + 16)), "as many again");
    assert_eq!(likely_full_at(Amount::Bytes(u64::MAX), &seen(1, 1), pace), Some(Offset(i64::MAX)));
}

/// What is done with a batch of which nothing was read, whose first record is of 0 ms, and which waits for offset 1100.
fn offered(within_ms: Option<i64>, observed: Observed) -> Offer {
    let waiting = Waiting { seen: Seen::nothing(Offset(START), Some(at(0))), until: Some(Offset(1_100)) };
    offer(&until(Amount::Readings(100), within_ms), Offset(START), &waiting, observed)
}

fn seen(high_watermark: i64, at_over: Option<Lookup>, silent: bool, now_ms: i64) -> Observed {
    Observed { high_watermark: Offset(high_watermark), at_over, silent, now: at(now_ms) }
}

#[test]
fn a_batch_is_handed_out_when_it_is_likely_to_be_full_or_over() {
    assert_eq!(offered(None, seen(1_099, None, false, 0)), Offer::Wait);
    assert_eq!(offered(None, seen(1_100, None, false, 0)), Offer::HandOut);
    let at = |offset| Some(Lookup::At(Offset(offset)));
    assert_eq!(offered(Some(10), seen(1_050, at(1_040), false, 0)), Offer::HandOut, "a record is past its time");
    assert_eq!(offered(Some(10), seen(1_050, Some(Lookup::Beyond), false, 0)), Offer::Wait);
    assert_eq!(offered(Some(10), seen(1_050, at(1_050), false, 0)), Offer::Wait, "appended in between");
    assert_eq!(
        offered(Some(10), seen(1_050, at(7), false, 0)),
        Offer::HandOut,
        "an older record hides what the index knows"
    );
}

/// What is done with a window of ten milliseconds of which 30 records were read, up to offset 1030, and which waits for 1100.
fn offered_again(observed: Observed) -> Offer {
    let times = Some(Times { first: at(0), earliest: at(0), latest: at(0) });
    let seen = Seen { through: Offset(START + 30), records: 30, amount: 30, times };
    let waiting = Waiting { seen, until: Some(Offset(1_100)) };
    offer(&until(Amount::Readings(100), Some(10)), Offset(START), &waiting, observed)
}

#[test]
fn where_an_older_record_hides_what_the_index_knows_a_window_is_looked_at_as_it_doubles() {
    let at = |offset| Some(Lookup::At(Offset(offset)));
    assert_eq!(offered_again(seen(1_050, at(1_029), false, 0)), Offer::Wait);
    assert_eq!(offered_again(seen(1_050, None, false, 0)), Offer::Wait);
    assert_eq!(offered_again(seen(1_060, at(1_029), false, 0)), Offer::HandOut);
    assert_eq!(offered_again(seen(1_050, at(1_030), false, 0)), Offer::HandOut, "the next record is past its time");
}

#[test]
fn silence_ends_a_window_with_what_was_seen_of_it_but_not_within_that() {
    let beyond = Some(Lookup::Beyond);
    assert_eq!(offered_again(seen(1_030, beyond, true, 10)), Offer::Seal(Offset(1_030)));
    assert_eq!(offered_again(seen(1_029, beyond, true, 10)), Offer::Wait, "the log has lost its end");
}

#[test]
fn silence_seals_a_window_that_has_a_time_once_the_clock_has_passed_it() {
    let beyond = Some(Lookup::Beyond);
    assert_eq!(offered(Some(10), seen(1_050, beyond, true, 9)), Offer::HandOut, "not sealed: its time is not over");
    assert_eq!(offered(Some(10), seen(1_050, beyond, true, 10)), Offer::Seal(Offset(1_050)));
    assert_eq!(offered(Some(10), seen(START, beyond, true, 10)), Offer::Wait, "nothing to end");
    assert_eq!(offered(None, seen(1_050, None, true, 10)), Offer::HandOut, "an estimate may be wrong");
    assert_eq!(offered(None, seen(START, None, true, 10)), Offer::Wait);
}

#[test]
fn a_plan_says_what_it_counts_as_people_write_it() {
    let cut = VolumeCut::new(until(Amount::Readings(5), Some(3_600_000)));
    let json = serde_json::to_value(cut).unwrap();
    assert_eq!(json, serde_json::json!({"until": {"amount": {"readings": 5}, "within": "1h"}}));
    assert_eq!(serde_json::from_value::<VolumeCut>(json).unwrap(), cut);
}
