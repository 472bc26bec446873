use proptest::prelude::*;

use super::*;

fn calendar(every: &str, zone: &str) -> Calendar {
    WindowSpec::new(every.parse().unwrap(), zone).calendar().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn hours(window: Window) -> i64 {
    window.end.since(window.start) / 3_600_000_000
}

#[test]
fn a_day_in_chicago_starts_at_five_or_six_utc() {
    let window = calendar("day", "America/Chicago").window_of(at("2015-09-01T12:00:00Z"));
    assert_eq!(window.id().to_string(), "20150901T050000Z");
    assert_eq!(hours(window), 24);
}

#[test]
fn days_of_clock_changes_have_23_and_25_hours() {
    let berlin = calendar("day", "Europe/Berlin");
    assert_eq!(hours(berlin.window_of(at("2026-03-29T12:00:00Z"))), 23);
    assert_eq!(hours(berlin.window_of(at("2026-10-25T12:00:00Z"))), 25);
}

#[test]
fn a_skipped_midnight_starts_the_day_after_the_gap() {
    // In Sao Paulo the clocks went from 2018-11-03 23:59:59 to 2018-11-04 01:00:00.
    let zone = calendar("day", "America/Sao_Paulo");
    let day = zone.window_of(at("2018-11-04T12:00:00Z"));
    assert_eq!(day.start, at("2018-11-04T03:00:00Z"));
    assert_eq!(zone.window_of(at("2018-11-04T02:59:59Z")).end, day.start);
}

#[test]
fn a_day_that_a_zone_skipped_is_no_window() {
    // Samoa had no 2011-12-30.
    let zone = calendar("day", "Pacific/Apia");
    let before = zone.window_of(at("2011-12-30T09:59:59Z"));
    let after = zone.next(before);
    assert_eq!(before.end, at("2011-12-30T10:00:00Z"));
    assert_eq!(after.start, before.end);
    assert!(after.end > after.start);
}

#[test]
fn a_midnight_that_comes_twice_begins_one_day() {
    // In St. John's the clocks went back from 00:01 to 23:01 of the day before on 2010-11-07; 2:30 UTC was the first midnight.
    let day = calendar("day", "America/St_Johns").window_of(at("2010-11-07T02:45:00Z"));
    assert_eq!((day.start, hours(day)), (at("2010-11-07T02:30:00Z"), 25));
}

#[test]
fn what_lies_between_a_skipped_midnight_and_the_end_of_its_gap_is_of_the_day_before() {
    // In Toronto the clocks went on from 23:30 to 00:30 on 1919-03-30, 04:30 UTC.
    let days = calendar("day", "America/Toronto");
    let before = days.window_of(at("1919-03-31T04:45:00Z"));
    assert_eq!(before.start, at("1919-03-30T05:00:00Z"));
    assert_eq!(days.next(before).start, before.end);
}

#[test]
fn a_window_begins_where_the_one_before_has_ended_though_the_rules_of_the_zone_have_changed() {
    let window = calendar("day", "UTC").window_from(at("2026-03-10T05:00:00Z"));
    assert_eq!((window.start, window.end), (at("2026-03-10T05:00:00Z"), at("2026-03-11T00:00:00Z")));
}

#[test]
fn a_window_of_volume_has_every_reading_of_its_records_whatever_their_time() {
    let window = Window::of_volume(PartitionId(0), Offset(7));
    let first = at("2026-03-10T05:00:00Z");
    let read = window.with_times(Some(Times { first, earliest: first, latest: first }));
    assert!(read.contains(first.plus_micros(-1)) && read.contains(read.end));
    assert_eq!((read.start, read.end), (first, first.plus_micros(1_000)));
    assert_eq!(window.with_times(None), window);
}

#[test]
fn weeks_start_on_monday_and_months_on_the_first() {
    let week = calendar("week", "UTC").window_of(at("2026-11-22T23:59:59Z"));
    assert_eq!((week.start, week.end), (at("2026-11-16T00:00:00Z"), at("2026-11-23T00:00:00Z")));
    let month = calendar("month", "Europe/Berlin").window_of(at("2026-03-10T00:00:00Z"));
    assert_eq!((month.start, month.end), (at("2026-02-28T23:00:00Z"), at("2026-03-31T22:00:00Z")));
}

#[test]
fn what_is_no_window_is_refused_with_examples() {
    for bad in ["", "daily", "0s", "500ms", "2000d", "1"] {
        assert!(bad.parse::<Every>().unwrap_err().to_string().contains("such as 15m"), "{bad}");
    }
    assert!(WindowSpec::new(Every::Day, "Mars/Olympus").calendar().is_err());
}

#[test]
fn lengths_and_names_of_windows_are_written_as_they_are_read() {
    for every in ["1h", "15m", "1h30m", "day", "week", "month", "shift", "volume"] {
        let read: Every = serde_json::from_value(every.into()).unwrap();
        assert_eq!((read.to_string(), serde_json::to_value(read).unwrap()), (every.to_owned(), every.into()));
    }
    assert_eq!("hour".parse::<Every>(), "1h".parse());
    let id: WindowId = serde_json::from_value("20150901T050000Z".into()).unwrap();
    assert_eq!(serde_json::to_value(id).unwrap(), "20150901T050000Z");
    assert_eq!("2015-09-01T05:00:00Z".parse(), Ok(id), "people type RFC 3339");
}

#[test]
fn windows_begin_in_utc_unless_a_zone_is_given() {
    let spec: WindowSpec = serde_json::from_str(r#"{"every": "day"}"#).unwrap();
    let day = spec.calendar().unwrap().window_of(at("2026-03-29T12:00:00Z"));
    assert_eq!((spec.time_zone.as_str(), day.start), ("UTC", at("2026-03-29T00:00:00Z")));
}

#[test]
fn no_window_is_longer_than_the_longest() {
    let longest = |every: &str| {
        let spec = WindowSpec::new(every.parse().unwrap(), "Europe/Berlin");
        spec.longest().millis() / 3_600_000
    };
    assert_eq!(longest("2h"), 2);
    assert_eq!(longest("shift"), 25, "a day without a shift");
    let volume = WindowSpec { within: Some("3h".parse().unwrap()), ..WindowSpec::new(Every::Volume, "UTC") };
    assert_eq!(volume.longest().millis(), 3 * 3_600_000);
    // October 2026 has a day of 25 hours; so has its last week.
    for every in ["day", "week", "month"] {
        let window = calendar(every, "Europe/Berlin").window_of(at("2026-10-25T12:00:00Z"));
        assert_eq!(longest(every), hours(window), "{every}");
    }
}

#[test]
fn counting_windows_comes_to_an_end_at_the_end_of_the_calendar() {
    let near = at("9999-12-28T00:00:00Z");
    for (every, days) in [("day", 2..3), ("week", 0..2), ("month", 0..2)] {
        let calendar = calendar(every, "UTC");
        let count = calendar.count(calendar.next(calendar.window_of(near)).start, Timestamp::MAX);
        assert!(days.contains(&count), "{every}: {count}");
    }
    assert_eq!(calendar("day", "UTC").count(Timestamp::MAX, Timestamp::MIN), 0);
}

#[test]
fn the_ends_of_the_calendar_have_windows_too() {
    for every in ["1h", "day", "week", "month"] {
        for zone in ["UTC", "Pacific/Apia", "America/Chicago"] {
            let calendar = calendar(every, zone);
            for t in [Timestamp::MIN, Timestamp::MAX] {
                let window = calendar.window_of(t);
                assert!(window.start <= t && t <= window.end, "{every} {zone} {t}: {window:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn as_many_windows_are_counted_as_follow_each_other(
        us in -2_000_000_000_000_000i64..4_000_000_000_000_000,
        every in prop::sample::select(vec!["7m", "36h", "day", "week", "month"]),
        count in 0u64..40,
    ) {
        let calendar = calendar(every, "Europe/Berlin");
        let first = calendar.window_of(Timestamp::from_micros(us));
        let until = (0..count).fold(first, |window, _| calendar.next(window)).start;
        prop_assert_eq!(calendar.count(first.start, until), count);
    }

    #[test]
    fn windows_tile_time_without_gap_or_overlap(
        us in -2_000_000_000_000_000i64..4_000_000_000_000_000,
        every in prop::sample::select(vec!["1s", "7m", "15m", "1h", "36h", "day", "week", "month"]),
        zone in prop::sample::select(vec![
            "UTC", "Europe/Berlin", "America/Chicago", "Asia/Kolkata", "Pacific/Apia", "America/Sao_Paulo",
            "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Tehran", "America/Nuuk",
        ]),
    ) {
        let calendar = calendar(every, zone);
        let t = Timestamp::from_micros(us);
        let window = calendar.window_of(t);
        prop_assert!(window.contains(t), "{window:?} {t}");
        prop_assert!(!window.contains(window.end) && !window.contains(window.start.plus_micros(-1)));
        prop_assert_eq!(window.start.micros().rem_euclid(1_000), 0);
        prop_assert_eq!(calendar.window_of(window.start), window);
        prop_assert_eq!(calendar.window_of(window.end.plus_micros(-1)), window);
        prop_assert_eq!(calendar.next(window).start, window.end);
        prop_assert_eq!(calendar.window_of(window.start.plus_micros(-1)).end, window.start);
    }
}
