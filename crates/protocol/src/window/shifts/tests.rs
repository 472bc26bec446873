use proptest::prelude::*;

use super::super::{Calendar, Every, WindowSpec};
use super::*;

/// Three shifts on weekdays, one on Saturdays, as plants have them.
fn plant(zone: &str, holidays: &[&str]) -> Calendar {
    let shift = |name: &str, from: &str, to: &str, days: &[Day]| Shift {
        name: name.into(),
        from: LocalTime::try_from(from.to_owned()).unwrap(),
        to: LocalTime::try_from(to.to_owned()).unwrap(),
        days: days.to_vec(),
    };
    let weekdays = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri];
    let mut spec = WindowSpec::new(Every::Shift, zone);
    spec.shifts = vec![
        shift("early", "06:00", "14:00", &weekdays),
        shift("late", "14:00", "22:00", &weekdays),
        shift("night", "22:00", "06:00", &weekdays),
        shift("saturday", "08:00", "12:00", &[Day::Sat]),
    ];
    spec.holidays = holidays.iter().map(|day| LocalDate::try_from((*day).to_owned()).unwrap()).collect();
    assert_eq!(overlap(&spec.shifts), None);
    spec.calendar().unwrap()
}

/// Name, start and end of the windows from a moment on.
fn windows(calendar: &Calendar, from: &str, count: usize) -> Vec<(String, String, String)> {
    let mut window = calendar.window_of(from.parse().unwrap());
    let mut found = Vec::new();
    for _ in 0..count {
        let name = calendar.shift_name(window).unwrap_or("-").to_owned();
        found.push((name, window.start.to_string(), window.end.to_string()));
        window = calendar.next(window);
    }
    found
}

fn expect(found: &[(String, String, String)], wanted: &[(&str, &str, &str)]) {
    let found: Vec<_> = found.iter().map(|(n, s, e)| (n.as_str(), s.as_str(), e.as_str())).collect();
    assert_eq!(found, wanted);
}

#[test]
fn a_week_of_shifts_ends_with_a_night_into_saturday_and_free_time_day_by_day() {
    let found = windows(&plant("UTC", &[]), "2026-11-20T15:00:00Z", 7);
    expect(
        &found,
        &[
            ("late", "2026-11-20T14:00:00Z", "2026-11-20T22:00:00Z"),
            ("night", "2026-11-20T22:00:00Z", "2026-11-21T06:00:00Z"),
            ("-", "2026-11-21T06:00:00Z", "2026-11-21T08:00:00Z"),
            ("saturday", "2026-11-21T08:00:00Z", "2026-11-21T12:00:00Z"),
            ("-", "2026-11-21T12:00:00Z", "2026-11-22T00:00:00Z"),
            ("-", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"),
            ("-", "2026-11-23T00:00:00Z", "2026-11-23T06:00:00Z"),
        ],
    );
}

#[test]
fn on_a_holiday_no_shift_begins_but_the_night_before_ends() {
    let found = windows(&plant("UTC", &["2026-12-25"]), "2026-12-24T23:00:00Z", 4);
    expect(
        &found,
        &[
            ("night", "2026-12-24T22:00:00Z", "2026-12-25T06:00:00Z"),
            ("-", "2026-12-25T06:00:00Z", "2026-12-26T00:00:00Z"),
            ("-", "2026-12-26T00:00:00Z", "2026-12-26T08:00:00Z"),
            ("saturday", "2026-12-26T08:00:00Z", "2026-12-26T12:00:00Z"),
        ],
    );
}

#[test]
fn a_night_over_a_clock_change_has_seven_or_nine_hours() {
    let mut daily = WindowSpec::new(Every::Shift, "Europe/Berlin");
    let at = |text: &str| LocalTime::try_from(text.to_owned()).unwrap();
    daily.shifts = vec![Shift { name: "night".into(), from: at("22:00"), to: at("06:00"), days: all_days() }];
    let calendar = daily.calendar().unwrap();
    let hours = |t: &str| {
        let window = calendar.window_of(t.parse().unwrap());
        assert_eq!(calendar.shift_name(window), Some("night"));
        window.end.since(window.start) / 3_600_000_000
    };
    assert_eq!(hours("2026-03-29T00:30:00Z"), 7);
    assert_eq!(hours("2026-10-25T00:30:00Z"), 9);
}

#[test]
fn shifts_that_meet_within_the_hour_that_a_clock_change_skips_still_meet() {
    // In Berlin there was no 02:30 on 2026-03-29.
    let at = |text: &str| LocalTime::try_from(text.to_owned()).unwrap();
    let shift = |name: &str, from, to| Shift { name: name.into(), from: at(from), to: at(to), days: all_days() };
    let mut spec = WindowSpec::new(Every::Shift, "Europe/Berlin");
    spec.shifts = vec![shift("a", "01:00", "02:30"), shift("b", "02:30", "02:45"), shift("c", "03:00", "09:00")];
    let found = windows(&spec.calendar().unwrap(), "2026-03-29T00:30:00Z", 2);
    // b has no time that day; a and c meet at the change.
    expect(
        &found,
        &[("a", "2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z"), ("c", "2026-03-29T01:00:00Z", "2026-03-29T07:00:00Z")],
    );
}

#[test]
fn overlaps_are_found_also_over_midnight_and_over_the_week() {
    let at = |text: &str| LocalTime::try_from(text.to_owned()).unwrap();
    let shift =
        |name: &str, from, to, days: &[Day]| Shift { name: name.into(), from: at(from), to: at(to), days: days.into() };
    let night = shift("night", "22:00", "06:00", &[Day::Sun]);
    assert_eq!(overlap(&[shift("early", "05:59", "14:00", &[Day::Mon]), night.clone()]), Some(("night", "early")));
    assert_eq!(overlap(&[shift("early", "06:00", "14:00", &[Day::Mon]), night]), None);
    let whole = shift("whole", "06:00", "06:00", &all_days());
    assert_eq!(overlap(std::slice::from_ref(&whole)), None);
    assert_eq!(overlap(&[whole, shift("short", "12:00", "12:01", &[Day::Thu])]), Some(("whole", "short")));
}

#[test]
fn times_and_days_are_written_in_one_way() {
    for bad in ["6:00", "06:00:30", "24:00", "06:60", "noon", ""] {
        assert!(LocalTime::try_from(bad.to_owned()).unwrap_err().contains("e.g. 06:00"), "{bad}");
    }
    for bad in ["2026-02-30", "25.12.2026", "2026-12-25T00:00:00", ""] {
        assert!(LocalDate::try_from(bad.to_owned()).unwrap_err().contains("e.g. 2026-12-25"), "{bad}");
    }
}

fn days() -> impl Strategy<Value = Vec<Day>> {
    prop::sample::subsequence(all_days(), 1..=7)
}

/// Calendars as `check` lets them pass.
fn calendars() -> impl Strategy<Value = WindowSpec> {
    let time = (0i8..24, 0i8..4).prop_map(|(hour, quarter)| LocalTime(Time::constant(hour, quarter * 15, 0, 0)));
    let shift = (time.clone(), time, days()).prop_map(|(from, to, days)| Shift { name: "s".into(), from, to, days });
    let zones = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe", "Africa/Cairo"];
    let holidays = prop::collection::vec((2010i16..2020, 1i8..13, 1i8..29), 0..4)
        .prop_map(|days| days.into_iter().map(|(y, m, d)| LocalDate(Date::constant(y, m, d))).collect::<Vec<_>>());
    (prop::collection::vec(shift, 1..4), prop::sample::select(zones.to_vec()), holidays)
        .prop_filter("shifts overlap", |(shifts, ..)| overlap(shifts).is_none())
        .prop_map(|(shifts, zone, holidays)| {
            let mut spec = WindowSpec::new(Every::Shift, zone);
            (spec.shifts, spec.holidays) = (shifts, holidays);
            spec
        })
}

proptest! {
    #[test]
    fn windows_tile_time_whatever_the_calendar(spec in calendars(), second in 1_262_304_000i64..1_577_836_800) {
        let calendar = spec.calendar().unwrap();
        let mut t = Timestamp::from_millis(second * 1_000);
        for _ in 0..20 {
            let window = calendar.window_of(t);
            prop_assert!(window.contains(t));
            prop_assert_eq!(calendar.window_of(window.start), window);
            prop_assert_eq!(calendar.window_of(window.end.plus_micros(-1)), window);
            prop_assert_eq!(calendar.next(window).start, window.end);
            t = window.end;
        }
    }
}
