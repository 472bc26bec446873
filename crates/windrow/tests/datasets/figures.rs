//! The figures that the jobs must find, by plain loops over the CSV. Nothing here is windrow's: `csv` splits cells and `jiff`
//! knows the zones.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use jiff::civil::{Date, DateTime, date};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Rows of a result by window, each cell as text; `-` where there is no value.
pub type Figures = BTreeMap<String, Vec<Vec<String>>>;

/// What must come out of a data set.
#[derive(Debug, Default)]
pub struct Expected {
    pub rows: u64,
    /// Rows with the device and time of one before them.
    pub duplicate_times: u64,
    /// Readings that the job counts as repeats.
    pub removed: u64,
    pub missing_cells: u64,
    /// End of the last window.
    pub until: String,
    pub figures: Figures,
}

fn rows(path: &Path) -> Vec<csv::StringRecord> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(path).unwrap();
    reader.records().map(Result::unwrap).collect()
}

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

/// A day's start in a zone, in UTC.
fn start(day: Date, zone: &TimeZone) -> Timestamp {
    day.to_zoned(zone.clone()).unwrap().timestamp()
}

/// The Monday of a day's week.
fn monday(day: Date) -> Date {
    day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).unwrap()
}

fn compact(time: Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn local(time: Timestamp, zone: &TimeZone) -> DateTime {
    time.to_zoned(zone.clone()).datetime()
}

/// A number of a cell times a power of ten, rounded.
fn scaled(value: f64, by: f64) -> i64 {
    (value * by).round() as i64
}

fn least(a: Option<f64>, b: f64) -> Option<f64> {
    Some(a.map_or(b, |a| a.min(b)))
}

fn most(a: Option<f64>, b: f64) -> Option<f64> {
    Some(a.map_or(b, |a| a.max(b)))
}

fn float(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:?}"))
}

/// A sum over `n` numbers: none over none.
fn sum(n: u64, sum: i64) -> String {
    if n == 0 { "-".to_owned() } else { sum.to_string() }
}

pub fn detectors(files: &[PathBuf]) -> Expected {
    let chicago = zone("America/Chicago");
    let mut expected = Expected::default();
    let mut by_week = BTreeMap::<(Date, String), (u64, i64, Option<f64>, Option<f64>)>::new();
    for file in files {
        let device = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut seen = HashSet::new();
        for row in rows(file) {
            let time: DateTime = row[0].parse().unwrap();
            let time = time.to_zoned(chicago.clone()).unwrap().timestamp();
            let value: f64 = row[1].parse().unwrap();
            expected.rows += 1;
            expected.duplicate_times += u64::from(!seen.insert(time));
            let of = by_week.entry((monday(local(time, &chicago).date()), device.clone())).or_default();
            *of = (of.0 + 1, of.1 + scaled(value, 100.0), least(of.2, value), most(of.3, value));
        }
    }
    let last = by_week.last_key_value().unwrap().0.0;
    expected.until = start(last.checked_add(7.days()).unwrap(), &chicago).to_string();
    for ((week, device), (n, hundredths, least, most)) in by_week {
        let mean = hundredths as f64 / 100.0 / n as f64;
        let row = [device, n.to_string(), hundredths.to_string(), float(least), float(most), float(Some(mean))];
        expected.figures.entry(compact(start(week, &chicago))).or_default().push(row.to_vec());
    }
    expected
}

/// Of one month and hour.
#[derive(Default)]
struct Traffic {
    n: u64,
    volume: i64,
    least: Option<i64>,
    most: Option<i64>,
    n_temp: u64,
    centikelvin: i64,
    coldest: Option<f64>,
    warmest: Option<f64>,
}

pub fn metro(file: &Path) -> Expected {
    let chicago = zone("America/Chicago");
    let mut expected = Expected::default();
    let mut seen = HashSet::new();
    let mut by_hour = BTreeMap::<(Date, i8), Traffic>::new();
    for row in rows(file) {
        // dd/mm/yyyy HH:MM
        let part = |range: std::ops::Range<usize>| row[7][range].parse::<i16>().unwrap();
        let time =
            date(part(6..10), part(3..5) as i8, part(0..2) as i8).at(part(11..13) as i8, part(14..16) as i8, 0, 0);
        let time = time.to_zoned(chicago.clone()).unwrap().timestamp();
        expected.rows += 1;
        if !seen.insert(time) {
            expected.duplicate_times += 1;
            continue;
        }
        let (volume, temp): (i64, f64) = (row[8].parse().unwrap(), row[1].parse().unwrap());
        let month = local(time, &chicago).date().first_of_month();
        let hour = by_hour.entry((month, local(time, &TimeZone::UTC).hour())).or_default();
        hour.n += 1;
        hour.volume += volume;
        hour.least = Some(hour.least.map_or(volume, |least| least.min(volume)));
        hour.most = Some(hour.most.map_or(volume, |most| most.max(volume)));
        if temp > 0.0 {
            hour.n_temp += 1;
            hour.centikelvin += scaled(temp, 100.0);
            (hour.coldest, hour.warmest) = (least(hour.coldest, temp), most(hour.warmest, temp));
        }
    }
    expected.removed = expected.duplicate_times;
    let last = by_hour.last_key_value().unwrap().0.0;
    expected.until = start(last.checked_add(1.month()).unwrap(), &chicago).to_string();
    for ((month, hour), of) in by_hour {
        let row = [
            hour.to_string(),
            of.n.to_string(),
            of.volume.to_string(),
            of.least.unwrap().to_string(),
            of.most.unwrap().to_string(),
            of.n_temp.to_string(),
            sum(of.n_temp, of.centikelvin),
            float(of.coldest),
            float(of.warmest),
        ];
        expected.figures.entry(compact(start(month, &chicago))).or_default().push(row.to_vec());
    }
    expected
}

/// Of one month.
#[derive(Default)]
struct Air {
    n: u64,
    co: (u64, i64),
    benzene: (u64, i64),
    n_no2: u64,
    most_no2: Option<f64>,
    coldest: Option<f64>,
    warmest: Option<f64>,
    most_rh: Option<f64>,
}

pub fn air(file: &Path) -> Expected {
    let rome = zone("Europe/Rome");
    let mut expected = Expected::default();
    let (mut seen, mut by_month) = (HashSet::new(), BTreeMap::<Date, Air>::new());
    for row in rows(file) {
        let (day, hour) = (&row[0], &row[1]);
        let part = |text: &str, range: std::ops::Range<usize>| text[range].parse::<i16>().unwrap();
        let time = date(part(day, 6..10), part(day, 3..5) as i8, part(day, 0..2) as i8);
        let time = time.at(part(hour, 0..2) as i8, 0, 0, 0).to_zoned(rome.clone()).unwrap().timestamp();
        expected.rows += 1;
        expected.duplicate_times += u64::from(!seen.insert(time));
        let of = by_month.entry(local(time, &rome).date().first_of_month()).or_default();
        of.n += 1;
        let mut cell = |at: usize| {
            let value: f64 = row[at].replace(',', ".").parse().unwrap();
            expected.missing_cells += u64::from(value == -200.0);
            (value != -200.0).then_some(value)
        };
        if let Some(co) = cell(2) {
            of.co = (of.co.0 + 1, of.co.1 + scaled(co, 10.0));
        }
        if let Some(benzene) = cell(5) {
            of.benzene = (of.benzene.0 + 1, of.benzene.1 + scaled(benzene, 10.0));
        }
        if let Some(no2) = cell(9) {
            (of.n_no2, of.most_no2) = (of.n_no2 + 1, most(of.most_no2, no2));
        }
        if let Some(t) = cell(12) {
            (of.coldest, of.warmest) = (least(of.coldest, t), most(of.warmest, t));
        }
        if let Some(rh) = cell(13) {
            of.most_rh = most(of.most_rh, rh);
        }
    }
    let last = *by_month.last_key_value().unwrap().0;
    expected.until = start(last.checked_add(1.month()).unwrap(), &rome).to_string();
    for (month, of) in by_month {
        let row = [
            of.n.to_string(),
            of.co.0.to_string(),
            sum(of.co.0, of.co.1),
            of.benzene.0.to_string(),
            sum(of.benzene.0, of.benzene.1),
            of.n_no2.to_string(),
            float(of.most_no2),
            float(of.coldest),
            float(of.warmest),
            float(of.most_rh),
        ];
        expected.figures.insert(compact(start(month, &rome)), vec![row.to_vec()]);
    }
    expected
}

/// Of one trip in ten minutes.
#[derive(Default)]
struct Trip {
    n: u64,
    most_speed: Option<f64>,
    standing: u64,
    rpm_hundredths: i64,
    coldest: Option<f64>,
    hottest: Option<f64>,
}

/// Each trip begins at `epoch`.
pub fn trips(files: &[PathBuf], epoch: Timestamp) -> Expected {
    let mut expected = Expected::default();
    let mut by_window = BTreeMap::<(Timestamp, String), Trip>::new();
    for file in files {
        let device = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut seen = BTreeSet::new();
        for row in rows(file) {
            let cell = |at: usize| row[at].trim().parse::<f64>().unwrap();
            // Whole seconds, written as 17.000000.
            let second = cell(0) as i64;
            expected.rows += 1;
            expected.duplicate_times += u64::from(!seen.insert(second));
            let window = epoch + (second / 600 * 600).seconds();
            let of = by_window.entry((window, device.clone())).or_default();
            of.n += 1;
            of.most_speed = most(of.most_speed, cell(2));
            of.standing += u64::from(cell(2) == 0.0);
            of.rpm_hundredths += scaled(cell(1), 100.0);
            (of.coldest, of.hottest) = (least(of.coldest, cell(5)), most(of.hottest, cell(5)));
        }
    }
    expected.until = (by_window.last_key_value().unwrap().0.0 + 600.seconds()).to_string();
    for ((window, device), of) in by_window {
        let row = [
            device,
            of.n.to_string(),
            float(of.most_speed),
            of.standing.to_string(),
            of.rpm_hundredths.to_string(),
            float(of.coldest),
            float(of.hottest),
        ];
        expected.figures.entry(compact(window)).or_default().push(row.to_vec());
    }
    expected
}

/// Of one shift.
#[derive(Default)]
struct Shift {
    n: u64,
    hundredths: i64,
    coldest: Option<f64>,
    hottest: Option<f64>,
    hot: u64,
}

/// The hours in which a local time's window begins and ends, as hours since its day's midnight: shifts of eight hours from
/// six o'clock on, on days of work; otherwise what is free of the day.
fn shift_hours(time: DateTime) -> (i64, i64) {
    let works = |day: Date| {
        let is_holiday = day == date(2013, 12, 25) || day == date(2014, 1, 1);
        day.weekday().to_monday_zero_offset() < 5 && !is_holiday
    };
    let (today, before) = (works(time.date()), works(time.date().yesterday().unwrap()));
    match (time.hour(), today, before) {
        (0..6, _, true) => (-2, 6),
        (0..6, true, false) => (0, 6),
        (6..14, true, _) => (6, 14),
        (14..22, true, _) => (14, 22),
        (22.., true, _) => (22, 30),
        (_, false, true) => (6, 24),
        (_, false, false) => (0, 24),
        (hour, ..) => unreachable!("hour {hour}"),
    }
}

pub fn shifts(file: &Path) -> Expected {
    let new_york = zone("America/New_York");
    let mut expected = Expected::default();
    let (mut seen, mut by_shift) = (HashSet::new(), BTreeMap::<Timestamp, Shift>::new());
    for row in rows(file) {
        let written: DateTime = row[0].parse().unwrap();
        let (time, value) = (written.to_zoned(new_york.clone()).unwrap().timestamp(), row[1].parse::<f64>().unwrap());
        expected.rows += 1;
        if !seen.insert(time) {
            (expected.duplicate_times, expected.removed) = (expected.duplicate_times + 1, expected.removed + 1);
            continue;
        }
        // No clock changes in these months.
        let (begins, ends) = shift_hours(written);
        let midnight = start(written.date(), &new_york);
        expected.until = (midnight + ends.hours()).to_string();
        let of = by_shift.entry(midnight + begins.hours()).or_default();
        of.n += 1;
        of.hundredths += scaled(value, 100.0);
        (of.coldest, of.hottest) = (least(of.coldest, value), most(of.hottest, value));
        of.hot += u64::from(value > 100.0);
    }
    for (window, of) in by_shift {
        let row =
            [of.n.to_string(), of.hundredths.to_string(), float(of.coldest), float(of.hottest), of.hot.to_string()];
        expected.figures.insert(compact(window), vec![row.to_vec()]);
    }
    expected
}
