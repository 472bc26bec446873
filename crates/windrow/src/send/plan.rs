//! The first pass: everything is checked, and what must hold for all rows is fixed, before the first one is sent.
//!
//! Fixed are the time format of each file, the type of each column over all files, each file's identity, and whether its
//! rows are in order of time. Keeps no rows.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use super::cell::{self, Kind, Raw, Reader, Seen};
use super::columns::Mapping;
use super::input::{Input, Record};
use super::report::{BadRow, MAX_SHOWN, Report};
use super::time::{Clock, Format, Local};

/// What a sequence number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Seq {
    /// The file's identity and the row's number in it.
    Row,
    /// The event time: of the rows of a device with the same time, one counts.
    Time,
    /// None: repeats can't be found.
    None,
}

/// What the user wants, checked as far as that needs no file.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The device of all rows, if no column names it.
    pub device: Option<String>,
    pub seq: Seq,
    pub time_format: Option<Format>,
    pub clock: Clock,
    /// Whether the user named the zone.
    pub zone_is_given: bool,
    pub reader: Reader,
    /// Leave rows out that can't be read.
    pub skip_bad: bool,
}

/// A file that has been read once.
#[derive(Debug)]
pub struct FilePlan {
    pub input: Input,
    /// The device of its rows, if no column names it.
    pub device: String,
    pub time_format: Format,
    /// Sequence number of row 0.
    pub seq_base: u64,
    pub is_sorted: bool,
    /// What its rows take in memory, about.
    pub bytes: u64,
}

/// What will be sent.
#[derive(Debug)]
pub struct Plan {
    pub rules: Rules,
    pub mapping: Mapping,
    /// Of each field; a column without any value has none.
    pub kinds: Vec<Option<Kind>>,
    pub files: Vec<FilePlan>,
    /// Rows that will be sent.
    pub rows: u64,
}

/// A row, read.
#[derive(Debug)]
pub struct Parsed {
    pub time_us: i64,
    pub local: Local,
    pub device: String,
    pub seq: Option<u64>,
}

/// Why a row can't be read: the column, and what is wrong with its cell.
pub type Wrong = (String, String);

impl Rules {
    /// Time, device and sequence number of a row. `device`: if no column names it.
    pub fn read(&self, mapping: &Mapping, cells: &[Raw], device: &str, format: &Format) -> Result<Parsed, Wrong> {
        let (time_us, local) =
            self.clock.read(&time_cell(mapping, cells), format).map_err(|reason| (time_name(mapping), reason))?;
        let device = match mapping.device {
            None => device.to_owned(),
            Some(at) => match cells[at].text() {
                Ok(Some(device)) => device,
                Ok(None) => return Err((mapping.columns[at].clone(), "there is no device".to_owned())),
                Err(what) => return Err((mapping.columns[at].clone(), format!("{what} names no device"))),
            },
        };
        let seq = match mapping.seq.map(|at| (at, cells[at].text())) {
            None => None,
            Some((_, Ok(None))) => None,
            Some((at, text)) => match text.ok().flatten().and_then(|text| text.parse().ok()) {
                Some(seq) => Some(seq),
                None => {
                    let reason = "a sequence number is a whole number from 0 to 18446744073709551615".to_owned();
                    return Err((mapping.columns[at].clone(), reason));
                }
            },
        };
        Ok(Parsed { time_us, local, device, seq })
    }
}

fn time_name(mapping: &Mapping) -> String {
    mapping.time.iter().map(|at| mapping.columns[*at].as_str()).collect::<Vec<_>>().join(",")
}

/// The cell of one time column; of several, their texts with spaces in between.
fn time_cell(mapping: &Mapping, cells: &[Raw]) -> Raw {
    match mapping.time.as_slice() {
        [at] => cells[*at].clone(),
        several => {
            let texts: Result<Vec<_>, _> = several.iter().map(|at| cells[*at].text()).collect();
            match texts {
                Ok(texts) => Raw::Text(texts.into_iter().flatten().collect::<Vec<_>>().join(" ")),
                Err(what) => Raw::Unfit(what),
            }
        }
    }
}

/// The first pass over one file.
struct Scan<'a> {
    rules: &'a Rules,
    mapping: &'a Mapping,
    input: &'a Input,
    device: String,
    format: Option<Format>,
    seen: Vec<Seen>,
    identity: Option<u64>,
    is_sorted: bool,
    last_us: i64,
    bytes: u64,
    good: u64,
}

impl Scan<'_> {
    /// Notes a row; what is wrong with it otherwise. A time format that can't be told ends everything.
    fn row(&mut self, record: &Record, cells: &[Raw], report: &mut Report) -> Result<Result<(), Wrong>> {
        if self.format.is_none() {
            match self.rules.clock.detect(&time_cell(self.mapping, cells)) {
                Ok(format) => self.format = Some(format),
                Err(reason) if self.rules.skip_bad => return Ok(Err((time_name(self.mapping), reason))),
                Err(reason) => {
                    bail!("{}: row {}, column {}: {reason}", self.input.name, record.row, time_name(self.mapping))
                }
            }
        }
        let format = self.format.clone().unwrap_or(Format::Iso);
        let parsed = match self.rules.read(self.mapping, cells, &self.device, &format) {
            Ok(parsed) => parsed,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let mut read = Vec::with_capacity(self.mapping.fields.len());
        for field in &self.mapping.fields {
            let raw = &cells[field.at];
            let wrong = |reason: String| Ok(Err((self.mapping.columns[field.at].clone(), reason)));
            let cell = match self.rules.reader.read(raw) {
                Ok(cell) => cell,
                Err(what) => return wrong(format!("{what} is no value")),
            };
            let fits = |kind| cell == cell::Cell::Absent || cell::value(kind, cell.clone(), raw).is_some();
            match field.kind {
                Some(kind) if !fits(kind) => {
                    let text = raw.text().ok().flatten().unwrap_or_default();
                    return wrong(format!("{text:?} is no {}", kind.name()));
                }
                _ => read.push(cell),
            }
        }
        self.good(record, cells, &parsed, &read);
        report.time(parsed.time_us, parsed.local);
        Ok(Ok(()))
    }

    fn good(&mut self, record: &Record, cells: &[Raw], parsed: &Parsed, read: &[cell::Cell]) {
        if self.identity.is_none() {
            self.identity = Some(identity(self.input, self.mapping, cells));
        }
        self.good += 1;
        self.is_sorted &= parsed.time_us >= self.last_us;
        self.last_us = self.last_us.max(parsed.time_us);
        self.bytes += 160 + parsed.device.len() as u64 + 48 * read.len() as u64;
        for (seen, cell) in self.seen.iter_mut().zip(read) {
            if let cell::Cell::Text(text) = cell {
                self.bytes += text.len() as u64;
            }
            seen.note(cell, || format!("row {} of {}", record.row, self.input.name));
        }
    }
}

/// Tells files apart: the upper half of all sequence numbers of a file. Only its name and what its first row holds count:
/// rows and columns that are added to it later, or that other files have, don't change it.
fn identity(input: &Input, mapping: &Mapping, first: &[Raw]) -> u64 {
    let text = |at: usize| first[at].text().ok().flatten();
    let columns = mapping.columns.iter().enumerate().map(|(at, name)| (name, text(at)));
    let fields = mapping.fields.iter().map(|field| (&field.name, text(field.at)));
    let mut cells: Vec<(&String, String)> =
        columns.chain(fields).filter_map(|(name, text)| Some((name, text?))).collect();
    cells.sort();
    cells.dedup();
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(text.as_bytes());
        hash.update([0]);
    };
    add(&input.path.file_name().unwrap_or_default().to_string_lossy());
    for (name, text) in &cells {
        add(name);
        add(text);
    }
    let digest = hash.finalize();
    u64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])) << 32
}

/// Reads all files once. `tick` is called for each row.
pub fn scan(
    rules: Rules,
    mapping: Mapping,
    inputs: Vec<Input>,
    report: &mut Report,
    mut tick: impl FnMut(),
) -> Result<Plan> {
    let mut seen = vec![Seen::default(); mapping.fields.len()];
    let (mut files, mut rows) = (Vec::new(), 0);
    for input in inputs {
        let stem = || input.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let device = rules.device.clone().unwrap_or_else(stem);
        let mut scan = Scan {
            rules: &rules,
            mapping: &mapping,
            input: &input,
            device,
            format: rules.time_format.clone(),
            seen: vec![Seen::default(); mapping.fields.len()],
            identity: None,
            is_sorted: true,
            last_us: i64::MIN,
            bytes: 0,
            good: 0,
        };
        let mut count = 0;
        for record in input.records(&mapping.columns)? {
            let record = record?;
            count += 1;
            tick();
            let wrong = match &record.cells {
                Ok(cells) => scan.row(&record, cells, report)?.err(),
                Err(reason) => Some((String::new(), reason.clone())),
            };
            if let Some((column, reason)) = wrong {
                report.bad(BadRow { file: input.name.clone(), row: record.row, line: record.line, column, reason });
            }
        }
        report.file(&input.name, count, scan.good, scan.is_sorted);
        seen.iter_mut().zip(scan.seen).for_each(|(all, of_file)| all.plus(of_file));
        rows += scan.good;
        let time_format = scan.format.unwrap_or(Format::Iso);
        let (device, seq_base) = (scan.device, scan.identity.unwrap_or_default());
        let (is_sorted, bytes) = (scan.is_sorted, scan.bytes);
        files.push(FilePlan { input, device, time_format, seq_base, is_sorted, bytes });
    }
    let kinds: Vec<Option<Kind>> =
        mapping.fields.iter().zip(&seen).map(|(field, seen)| field.kind.or_else(|| seen.kind())).collect();
    report.columns(&mapping, &kinds, &seen);
    let plan = Plan { rules, mapping, kinds, files, rows };
    if report.local_times > 0 && !plan.rules.zone_is_given {
        report.hint("times without an offset are taken as UTC; if they are not, add e.g. --time-zone Europe/Berlin");
    }
    plan.hints(&seen).iter().take(MAX_SHOWN).for_each(|hint| report.hint(hint));
    Ok(plan)
}

impl Plan {
    /// What looks like a mistake but may be none.
    fn hints(&self, seen: &[Seen]) -> Vec<String> {
        let mut hints = Vec::new();
        for (field, seen) in self.mapping.fields.iter().zip(seen) {
            let (name, column) = (&field.name, &self.mapping.columns[field.at]);
            match &seen.first_text {
                Some((place, text)) if field.kind.is_none() && seen.is_spoiled() => hints.push(format!(
                    "{name} is sent as text because of {text:?} in {place}: if that means \"no value\", add --missing {text:?}"
                )),
                _ if seen.kind().is_none() && self.rows > 0 => hints.push(format!("column {column:?} has no values")),
                _ => {}
            }
        }
        let sorted: BTreeMap<bool, u64> = self.files.iter().fold(BTreeMap::new(), |mut counts, file| {
            *counts.entry(file.is_sorted).or_default() += 1;
            counts
        });
        if let Some(unsorted) = sorted.get(&false) {
            hints.push(format!("{unsorted} of {} files are not in order of time: sorted in memory", self.files.len()));
        }
        hints
    }
}
