//! Event times: how a cell becomes a moment in UTC.
//!
//! The format is fixed before the first row is sent and holds for the whole file. What could be read in two ways (is
//! 02/10 in February or in October?) is never guessed.

use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, Zoned};

use super::cell::Raw;

/// How times are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// ISO 8601: RFC 3339, or without an offset, or with a space for the T, or the date alone.
    Iso,
    /// A number of units since the epoch (or `--epoch`), of so many microseconds each; may have a fraction.
    Unix(i64),
    /// `strptime` as jiff knows it.
    Strptime(String),
}

/// Formats that people have, for advice.
const KNOWN: [&str; 16] = [
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y",
    "%d/%m/%Y %H.%M.%S",
    "%m/%d/%Y %I:%M:%S %p",
    "%Y/%m/%d %H:%M:%S",
    "%Y%m%d%H%M%S",
    "%Y%m%d%H%M",
    "%y%m%d%H%M%S",
    "%d-%b-%Y %H:%M:%S",
];

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rfc3339" | "iso" | "iso8601" => Ok(Self::Iso),
            "unix" => Ok(Self::Unix(1_000_000)),
            "unix_ms" => Ok(Self::Unix(1_000)),
            "unix_us" => Ok(Self::Unix(1)),
            _ if text.contains('%') => Ok(Self::Strptime(text.to_owned())),
            _ => Err("expected rfc3339, unix, unix_ms, unix_us, or a format with %, e.g. '%d/%m/%Y %H:%M'".to_owned()),
        }
    }
}

/// What a local time was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// None: it came with an offset, or as a number.
    No,
    /// One moment.
    Plain,
    /// The clock showed it twice (the end of summer time): the first one is taken.
    Ambiguous,
    /// The clock never showed it (the beginning of summer time): moved on by the jump.
    Skipped,
}

/// Reads times.
#[derive(Debug, Clone)]
pub struct Clock {
    pub zone: TimeZone,
    /// What numbers count from, in microseconds since the Unix epoch.
    pub epoch_us: i64,
}

impl Clock {
    /// The moment in microseconds since the Unix epoch. The error says what is wrong with the cell.
    pub fn read(&self, raw: &Raw, format: &Format) -> Result<(i64, Local), String> {
        match raw {
            Raw::Instant(us) => Ok((*us, Local::No)),
            Raw::Local(us) => {
                let local = Timestamp::from_microsecond(*us).map_err(|error| error.to_string())?;
                self.local(local.to_zoned(TimeZone::UTC).datetime())
            }
            Raw::I64(number) => match format {
                Format::Unix(_) => self.number(&number.to_string(), format),
                _ => self.text(&number.to_string(), format),
            },
            Raw::F64(number) => self.number(&number.to_string(), format),
            Raw::Text(text) => self.text(text.trim(), format),
            Raw::Absent => Err("there is no time".to_owned()),
            Raw::Bool(_) => Err("true or false is no time".to_owned()),
            Raw::Unfit(what) => Err(format!("{what} is no time")),
        }
    }

    fn text(&self, text: &str, format: &Format) -> Result<(i64, Local), String> {
        match format {
            _ if text.is_empty() => Err("there is no time".to_owned()),
            Format::Unix(_) => self.number(text, format),
            Format::Iso => {
                if let Ok(moment) = text.parse::<Timestamp>() {
                    return Ok((moment.as_microsecond(), Local::No));
                }
                // A local time that names its zone; as a DateTime it would be taken, and the name ignored.
                if text.contains('[') {
                    let zoned = text.parse::<Zoned>().map_err(|error| format!("{text:?}: {error}"))?;
                    return Ok((zoned.timestamp().as_microsecond(), Local::No));
                }
                let local = text.parse::<DateTime>().map_err(|_| format!("{text:?} is no ISO 8601 time"))?;
                self.local(local)
            }
            Format::Strptime(pattern) => {
                let wrong = |error: jiff::Error| format!("{text:?} does not fit {pattern:?}: {error}");
                let parsed = BrokenDownTime::parse(pattern, text).map_err(wrong)?;
                if parsed.iana_time_zone().is_some() {
                    return Ok((parsed.to_zoned().map_err(wrong)?.timestamp().as_microsecond(), Local::No));
                }
                match parsed.to_timestamp() {
                    Ok(moment) => Ok((moment.as_microsecond(), Local::No)),
                    Err(_) => self.local(parsed.to_datetime().map_err(wrong)?),
                }
            }
        }
    }

    /// Exact in microseconds: a decimal fraction never goes through floating point.
    fn number(&self, text: &str, format: &Format) -> Result<(i64, Local), String> {
        let Format::Unix(unit_us) = format else {
            return Err(format!("{text} is a number, but the format is not unix"));
        };
        let wrong = || format!("{text:?} is no number of units since the epoch");
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let whole: i64 = whole.parse().map_err(|_| wrong())?;
        // Digits below a microsecond are cut off: `unit_us` is a power of ten.
        let fraction_us = fraction.bytes().scan(*unit_us, |unit, digit| {
            *unit /= 10;
            Some(*unit * i64::from(digit - b'0'))
        });
        let us = whole.checked_mul(*unit_us).and_then(|us| us.checked_add(fraction_us.sum())).ok_or_else(wrong)?;
        let us = self.epoch_us.checked_add(sign * us).ok_or_else(wrong)?;
        Timestamp::from_microsecond(us).map_err(|_| format!("{text} is outside of the years that a calendar holds"))?;
        Ok((us, Local::No))
    }

    fn local(&self, local: DateTime) -> Result<(i64, Local), String> {
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        let kind = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => Local::Plain,
            AmbiguousOffset::Fold { .. } => Local::Ambiguous,
            AmbiguousOffset::Gap { .. } => Local::Skipped,
        };
        let moment = ambiguous.compatible().map_err(|error| error.to_string())?;
        Ok((moment.as_microsecond(), kind))
    }

    /// The format of a file, from its first time. The error says which formats would fit.
    pub fn detect(&self, raw: &Raw) -> Result<Format, String> {
        let text = match raw {
            Raw::Instant(_) | Raw::Local(_) => return Ok(Format::Iso),
            Raw::I64(number) => number.to_string(),
            Raw::F64(number) => number.to_string(),
            Raw::Text(text) => text.trim().to_owned(),
            _ => return self.read(raw, &Format::Iso).map(|_| Format::Iso),
        };
        if text.is_empty() {
            return Err("there is no time".to_owned());
        }
        let is_number = text.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let digits = text.trim_start_matches('-').split('.').next().map_or(0, str::len);
        let fits = |pattern: &&str| self.text(&text, &Format::Strptime((*pattern).to_owned())).is_ok();
        // Milliseconds of before September 2001, or a date and a time without anything in between.
        let may_be_date = is_number && digits == 12 && KNOWN.iter().any(fits);
        match digits {
            _ if may_be_date => {}
            9 | 10 if is_number => return Ok(Format::Unix(1_000_000)),
            12 | 13 if is_number => return Ok(Format::Unix(1_000)),
            15 | 16 if is_number => return Ok(Format::Unix(1)),
            _ if !is_number && self.text(&text, &Format::Iso).is_ok() => return Ok(Format::Iso),
            _ => {}
        }
        let mut fitting: Vec<String> =
            KNOWN.iter().copied().filter(fits).map(|p| format!("--time-format '{p}'")).collect();
        if may_be_date {
            fitting.push("--time-format unix_ms".to_owned());
        }
        let advice = match fitting.len() {
            0 if is_number => {
                "say what it counts: --time-format unix (seconds), unix_ms or unix_us; for seconds since \
                               the start of a recording add --epoch TIME"
                    .to_owned()
            }
            0 => "say how times are written, e.g. --time-format '%d/%m/%Y %H:%M'".to_owned(),
            1 => format!("does {} fit all rows?", fitting[0]),
            _ => format!("it could be read in more than one way: choose {}", fitting.join(" or ")),
        };
        Err(format!("{text:?} is not ISO 8601 (2026-03-29 01:30:00): {advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(zone: &str) -> Clock {
        Clock { zone: TimeZone::get(zone).unwrap(), epoch_us: 0 }
    }

    fn text(text: &str) -> Raw {
        Raw::Text(text.to_owned())
    }

    /// The moment as RFC 3339, by a format or the detected one.
    fn moment(zone: &str, raw: &Raw, format: Option<&str>) -> (String, Local) {
        let clock = clock(zone);
        let format = format.map_or_else(|| clock.detect(raw).unwrap(), |format| format.parse().unwrap());
        let (us, local) = clock.read(raw, &format).unwrap();
        (Timestamp::from_microsecond(us).unwrap().to_string(), local)
    }

    #[test]
    fn common_forms_are_detected() {
        for same in [
            "2015-09-01T13:45:00Z",
            "2015-09-01T08:45:00-05:00",
            "2015-09-01 13:45:00",
            "2015-09-01T13:45",
            "1441115100",
            "1441115100000",
            "1441115100000000",
            "1441115100.0",
            "2015-09-01T15:45+02:00",
        ] {
            assert_eq!(moment("UTC", &text(same), None).0, "2015-09-01T13:45:00Z", "{same}");
        }
        assert_eq!(moment("UTC", &text("2015-09-01"), None).0, "2015-09-01T00:00:00Z");
        assert_eq!(moment("UTC", &Raw::I64(1_441_115_100), None).0, "2015-09-01T13:45:00Z");
    }

    #[test]
    fn what_could_be_two_dates_is_not_guessed_and_the_choices_are_named() {
        let error = clock("UTC").detect(&text("02/10/2012 09:00")).unwrap_err();
        assert!(error.contains("'%d/%m/%Y %H:%M' or --time-format '%m/%d/%Y %H:%M'"), "{error}");
        let error = clock("UTC").detect(&text("22/10/2012 09:00")).unwrap_err();
        assert!(error.contains("does --time-format '%d/%m/%Y %H:%M' fit"), "{error}");
        let error = clock("UTC").detect(&text("22/12/2026 10.05.30")).unwrap_err();
        assert!(error.contains("does --time-format '%d/%m/%Y %H.%M.%S' fit"), "{error}");
        let error = clock("UTC").detect(&text("202603290130")).unwrap_err();
        assert!(error.contains("choose --time-format '%Y%m%d%H%M' or --time-format unix_ms"), "{error}");
        assert!(clock("UTC").detect(&text("17.5")).unwrap_err().contains("--epoch"));
        assert!(clock("UTC").detect(&text("soon")).unwrap_err().contains("--time-format"));
    }

    #[test]
    fn local_times_that_are_shown_twice_or_never_are_resolved_as_compatible_and_told() {
        let format = Some("%d/%m/%Y %H:%M");
        let chicago = |t: &str| moment("America/Chicago", &text(t), format);
        assert_eq!(chicago("04/11/2012 01:30"), ("2012-11-04T06:30:00Z".to_owned(), Local::Ambiguous));
        assert_eq!(chicago("10/03/2013 02:30"), ("2013-03-10T08:30:00Z".to_owned(), Local::Skipped));
        assert_eq!(chicago("10/07/2013 02:30"), ("2013-07-10T07:30:00Z".to_owned(), Local::Plain));
    }

    #[test]
    fn an_offset_in_the_text_wins_over_the_zone() {
        let format = Some("%Y-%m-%d %H:%M:%S %z");
        assert_eq!(moment("America/Chicago", &text("2015-09-01 13:45:00 +0200"), format).0, "2015-09-01T11:45:00Z");
    }

    #[test]
    fn a_zone_that_is_named_in_the_text_wins_too() {
        let named = text("2026-07-01T12:00:00[America/New_York]");
        assert_eq!(moment("UTC", &named, None), ("2026-07-01T16:00:00Z".to_owned(), Local::No));
        let format = Some("%Y-%m-%d %H:%M %Q");
        let named = text("2026-07-01 12:00 America/New_York");
        assert_eq!(moment("UTC", &named, format), ("2026-07-01T16:00:00Z".to_owned(), Local::No));
        assert!(clock("UTC").read(&text("2026-07-01T12:00:00[Mars/Base]"), &Format::Iso).is_err());
    }

    #[test]
    fn numbers_are_exact_to_the_microsecond_and_may_count_from_another_epoch() {
        let clock = Clock { zone: TimeZone::UTC, epoch_us: 1_000_000_000_000_000 };
        let read =
            |number: &str, unit| clock.read(&text(number), &Format::Unix(unit)).map(|(us, _)| us - clock.epoch_us);
        assert_eq!(read("0.1234567", 1_000_000), Ok(123_456));
        assert_eq!(read("-1.5", 1_000_000), Ok(-1_500_000));
        assert_eq!(read("2.5", 1_000), Ok(2_500));
        for wrong in ["", "1e3", "--1", "1.2.3", "99999999999999999999", "9999999999999999"] {
            assert!(read(wrong, 1_000_000).is_err(), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_in_a_cell_is_a_time_or_an_error(cell in ".{0,40}", format in "(unix|unix_ms|rfc3339|[%a-zA-Z:/. -]{0,12})") {
            let clock = Clock { zone: TimeZone::get("America/Chicago").unwrap(), epoch_us: 1 };
            let _ = clock.detect(&text(&cell));
            if let Ok(format) = format.parse() {
                let _ = clock.read(&text(&cell), &format);
            }
        }

        #[test]
        fn every_moment_is_read_as_it_is_written(us in -60_000_000_000_000_000i64..200_000_000_000_000_000) {
            let written = Timestamp::from_microsecond(us).unwrap().to_string();
            proptest::prop_assert_eq!(clock("UTC").read(&text(&written), &Format::Iso).unwrap(), (us, Local::No));
            let decimal = format!("{}{}.{:06}", if us < 0 { "-" } else { "" }, us.abs() / 1_000_000, us.abs() % 1_000_000);
            proptest::prop_assert_eq!(clock("UTC").read(&text(&decimal), &Format::Unix(1_000_000)).unwrap().0, us);
        }
    }
}
