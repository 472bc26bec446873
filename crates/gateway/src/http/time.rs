//! RFC 3339 in the one shape that nearly all devices send, by hand, since a time is the dearest part of a reading's JSON.
//! Everything else is left to the calendar's parser.

use windrow_protocol::Timestamp;

/// Any RFC 3339 time.
pub fn parse(text: &str) -> Option<Timestamp> {
    utc(text.as_bytes()).map(Timestamp::from_micros).or_else(|| text.parse().ok().filter(|_| has_zone_of_earth(text)))
}

/// The calendar takes offsets of more than a day.
fn has_zone_of_earth(text: &str) -> bool {
    let offset = text.rsplit_once(['+', '-']).filter(|(before, _)| before.contains(['T', 't', ' ']));
    let hours = offset.and_then(|(_, offset)| offset.get(..2)?.parse::<u32>().ok());
    hours.is_none_or(|hours| hours < 24)
}

/// `YYYY-MM-DDTHH:MM:SS[.f]Z` with 1 to 6 digits of f and years from 1970, as microseconds since the epoch.
fn utc(text: &[u8]) -> Option<i64> {
    let (whole, fraction) = text.strip_suffix(b"Z")?.split_at_checked(19)?;
    let separators = [whole[4], whole[7], whole[10], whole[13], whole[16]];
    if separators != *b"--T::" {
        return None;
    }
    let two = |at: usize| number(&whole[at..at + 2]);
    let (year, month, day) = (number(&whole[..4])?, two(5)?, two(8)?);
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    if year < 1970 || !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if !(1..=lengths[month as usize - 1]).contains(&day) {
        return None;
    }
    let us = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => number(digits)? * 10i64.pow(6 - digits.len() as u32),
        _ => return None,
    };
    let before = year - 1;
    let days_of_years = before * 365 + before / 4 - before / 100 + before / 400 - 719_162;
    let days_of_months: i64 = lengths[..month as usize - 1].iter().sum();
    let days = days_of_years + days_of_months + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + us)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_says_what_the_calendar_says(us in 0i64..4_000_000_000_000_000, digits in 0usize..=6) {
            let unit = 10i64.pow(6 - digits as u32);
            let text = Timestamp::from_micros(us - us % unit).to_string();
            prop_assert_eq!(Some(us - us % unit), utc(text.as_bytes()), "{}", text);
        }

        #[test]
        fn it_takes_nothing_that_the_calendar_refuses(text in "(19|20)[0-9]{2}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,7})?Z") {
            if let Some(us) = utc(text.as_bytes()) {
                prop_assert_eq!(text.parse().map(Timestamp::micros), Ok(us));
            }
        }
    }

    #[test]
    fn other_shapes_are_left_to_the_calendar() {
        for text in [
            "2026-03-29T01:30:00+02:00",
            "2026-03-29t01:30:00z",
            "1969-12-31T23:59:59Z",
            "2026-03-29T01:30:00.1234567Z",
        ] {
            assert_eq!((utc(text.as_bytes()), parse(text).is_some()), (None, true), "{text}");
        }
        assert!(parse("2026-02-29T00:00:00Z").is_none());
        assert!(parse("2026-03-29T01:30:00+23:59").is_some() && parse("2026-03-29T01:30:00-25:00").is_none());
    }
}
