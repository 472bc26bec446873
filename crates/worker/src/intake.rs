//! From log records to `readings`: decodes, decides whose each reading is, removes repeats, and counts all of it.
//!
//! The rule (see `windrow_protocol::cut`): a reading of the window is on time; one of an earlier window is late if this
//! batch owns its offset; everything else belongs to other batches. Of a window of volume every reading is on time. What
//! can't be used is kept in quarantine. A late reading that amends its window is only counted here: a revision of that
//! window takes it in.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use windrow_ports::log::Record;
use windrow_processing::readings_schema;
use windrow_protocol::job::{Format, LatePolicy, LateRule, ValueType};
use windrow_protocol::revise::Amends;
use windrow_protocol::window::{Calendar, UnknownZone};
use windrow_protocol::{JobSpec, Ledger, Offset, OffsetRange, Plan, Timestamp, Window};
use windrow_wire::block::{self, Decoded, Values};

mod columns;
mod dedup;
mod json;
mod rows;
mod values;

use columns::Chosen;
use dedup::{Dedup, DeviceNumber};
pub use rows::quarantine_schema;
use rows::{Quarantine, Rows};

/// Rows that are collected before they are handed on.
const BATCH_ROWS: usize = 8_192;

/// Bytes of values of one block's unfit readings that are kept one by one.
const UNFIT_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of strings, or of quarantined records, that are collected before the rows are handed on, however few these are.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Reasons that a marker repeats for people.
pub const MAX_REASONS: usize = 10;

/// Batches that are ready.
#[derive(Debug, Default)]
pub struct Taken {
    pub on_time: Option<RecordBatch>,
    pub late: Option<RecordBatch>,
    pub quarantine: Option<RecordBatch>,
}

/// What a reading is to this batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    OnTime,
    /// Late, and set aside or dropped.
    Late,
    /// Late, and for a revision of its window to take in.
    Amends,
    Skipped,
    Duplicate,
    /// Unfit; whether it was on time decides where it is counted.
    Unfit {
        on_time: bool,
    },
}

/// Takes the records of one batch.
#[derive(Debug)]
pub struct Intake {
    spec: JobSpec,
    window: Window,
    owned: OffsetRange,
    columns: Vec<(String, ValueType)>,
    /// How JSON messages are read.
    fields: json::Fields,
    on_time: Rows,
    late: Rows,
    quarantine: Quarantine,
    dedup: Dedup,
    /// Places of the devices of the block before, in its order.
    numbers: Vec<DeviceNumber>,
    ledger: Ledger,
    reasons: Vec<String>,
    rule: LateRule,
    calendar: Calendar,
    /// The window of the last late reading, and whether it is amended: late readings come in crowds.
    touched: Option<(Window, bool)>,
    amends: Option<Amends>,
    /// Of the declared columns, in their order: whether a reading of the window has a value.
    present: Vec<bool>,
    /// Readings of the window are set aside, and nothing else is taken: the revision that wanted them can't be computed.
    only_aside: bool,
}

impl Intake {
    /// The error: the job's time zone is not known here.
    pub fn new(spec: &JobSpec, plan: &Plan) -> Result<Self, UnknownZone> {
        let values = spec.source.values.iter().map(|(name, kind)| (name.clone(), *kind));
        let tags = spec.source.tags.iter().map(|name| (name.clone(), ValueType::String));
        let columns: Vec<(String, ValueType)> = values.chain(tags).collect();
        let schema = readings_schema(spec);
        Ok(Self {
            spec: spec.clone(),
            window: plan.window,
            owned: match plan.volume() {
                // It owns what it reads, up to the end that is yet to be found.
                Some(_) => OffsetRange::new(plan.owned.start, Offset(i64::MAX)),
                None => plan.owned,
            },
            on_time: Rows::new(schema.clone(), &columns),
            late: Rows::new(schema, &columns),
            fields: json::Fields::new(spec, &columns),
            present: vec![false; columns.len()],
            columns,
            quarantine: Quarantine::default(),
            dedup: Dedup::default(),
            numbers: Vec::new(),
            ledger: Ledger { lost_offsets: plan.lost.map_or(0, |lost| lost.len()), ..Ledger::default() },
            reasons: Vec::new(),
            rule: plan.late_rule(spec),
            calendar: spec.window.calendar()?,
            touched: None,
            amends: None,
            only_aside: false,
        })
    }

    /// Takes readings of the window alone, as late ones.
    pub fn only_aside(mut self) -> Self {
        self.ledger = Ledger::default();
        (self.only_aside, self.rule) = (true, LateRule { policy: LatePolicy::Side, ..self.rule });
        self
    }

    /// The schema of on-time and late batches.
    pub fn schema(&self) -> SchemaRef {
        readings_schema(&self.spec)
    }

    /// Takes one record; how many readings it holds. Nothing that it holds is an error: what is unfit goes to quarantine.
    pub fn push(&mut self, record: &Record) -> u64 {
        let before = self.ledger.read;
        self.push_record(record);
        self.ledger.read - before
    }

    fn push_record(&mut self, record: &Record) {
        self.ledger.records += 1;
        match self.spec.source.format {
            Format::Windrow => match block::decode(&record.payload) {
                Ok(block) => match block.times_us.iter().max().map(|us| Timestamp::from_micros(*us)) {
                    // Windows of time find their records by timestamp: the later readings would be found by none.
                    Some(latest) if latest.millis() > record.timestamp.millis() && self.window.volume.is_none() => {
                        let stamp = record.timestamp;
                        self.undecodable(record, &format!("a reading of {latest} is later than the record, {stamp}"));
                    }
                    _ => self.push_block(record, block, false),
                },
                Err(error) => self.undecodable(record, &error.to_string()),
            },
            Format::Json => self.push_json(record),
        }
    }

    /// Nobody knows what times it holds, so it is kept once: by the batch that owns its offset.
    fn undecodable(&mut self, record: &Record, reason: &str) {
        if self.only_aside || !self.owned.contains(record.offset) {
            return;
        }
        self.ledger.undecodable += 1;
        self.reason(record, reason);
        self.quarantine.push(record, None, reason);
    }

    fn reason(&mut self, record: &Record, reason: &str) {
        if self.reasons.len() < MAX_REASONS {
            self.reasons.push(format!("offset {}: {reason}", record.offset));
        }
    }

    fn push_json(&mut self, record: &Record) {
        let message = match json::parse(record, &self.fields) {
            Ok(message) => message,
            Err(reason) => return self.undecodable(record, &reason),
        };
        for bad in &message.unfit {
            // Without a usable time of its own a reading counts by its message's.
            let time = bad.time.unwrap_or(record.timestamp);
            let fate = match self.fate(record.offset, time) {
                Fate::OnTime => Fate::Unfit { on_time: true },
                Fate::Late => Fate::Unfit { on_time: false },
                other => other,
            };
            self.count(fate, 1);
            if matches!(fate, Fate::Unfit { .. }) {
                self.reason(record, &bad.reason);
                self.quarantine.push(record, Some(time), &bad.reason);
            }
        }
        for (reading, values) in message.readings() {
            let mut fate = self.fate(record.offset, reading.time);
            if fate == Fate::OnTime
                && let Some(seq) = reading.seq
            {
                let number = self.dedup.number(&reading.device, None);
                if !self.dedup.is_new(number, seq, reading.time.micros()) {
                    fate = Fate::Duplicate;
                }
            }
            self.count(fate, 1);
            match fate {
                Fate::OnTime => self.on_time.push(reading, values),
                Fate::Late if self.rule.sets_aside() => self.late.push(reading, values),
                _ => {}
            }
        }
    }

    fn fate(&mut self, offset: Offset, time: Timestamp) -> Fate {
        match self.window.contains(time) {
            true if self.only_aside => Fate::Late,
            true => Fate::OnTime,
            false if time < self.window.start && self.owned.contains(offset) && !self.only_aside => {
                self.late_fate(offset, time)
            }
            false => Fate::Skipped,
        }
    }

    /// What becomes of a late reading. By nothing but spec, plan, offset and time, so that all attempts find alike.
    fn late_fate(&mut self, offset: Offset, time: Timestamp) -> Fate {
        let (touched, amended) = match self.touched {
            Some(known) if known.0.contains(time) => known,
            _ => {
                let touched = self.calendar.window_of(time);
                *self.touched.insert((touched, self.rule.amends(self.window, touched)))
            }
        };
        if !amended {
            return Fate::Late;
        }
        Amends::add(&mut self.amends, offset, touched);
        Fate::Amends
    }

    fn count(&mut self, fate: Fate, n: u64) {
        let ledger = &mut self.ledger;
        ledger.read += n;
        match fate {
            Fate::Late | Fate::Unfit { on_time: false } => ledger.late += n,
            Fate::Amends => {
                ledger.late += n;
                ledger.amended += n;
            }
            Fate::Skipped => ledger.skipped += n,
            Fate::OnTime => {
                ledger.on_time += n;
                ledger.kept += n;
            }
            Fate::Duplicate => {
                ledger.on_time += n;
                ledger.duplicate += n;
            }
            Fate::Unfit { on_time: true } => {
                ledger.on_time += n;
                ledger.quarantined += n;
            }
        }
    }

    /// Takes a block as a whole if that can be, or reading by reading; with the same outcome.
    fn push_block(&mut self, record: &Record, mut block: Decoded<'_>, one_by_one: bool) {
        // What a calendar can't hold counts as its first or last moment.
        for time in &mut block.times_us {
            *time = Timestamp::from_micros(*time).micros();
        }
        let columns = std::mem::take(&mut block.columns);
        let columns: Vec<Option<&Values<'_>>> = self
            .columns
            .iter()
            .map(|(name, _)| columns.iter().find(|column| column.name == name).map(|column| &column.values))
            .collect();
        if !one_by_one && self.is_whole(&block, &columns) {
            self.push_whole(&block, &columns);
        } else {
            self.push_rows(record, &block, &columns);
        }
    }

    /// Whether every reading of a block is on time and of the declared types: true of nearly all blocks.
    fn is_whole(&self, block: &Decoded<'_>, columns: &[Option<&Values<'_>>]) -> bool {
        let (start, end) = (self.window.start.micros(), self.window.end.micros());
        if self.only_aside {
            return false;
        }
        let on_time = self.window.volume.is_some()
            || block.times_us.iter().fold(true, |all, time| all & (start <= *time) & (*time < end));
        on_time && columns.iter().zip(&self.columns).all(|(found, (_, declared))| mismatch(*found, *declared).is_none())
    }

    /// Takes a block whose readings are all on time and fit, without deciding for each of them.
    fn push_whole(&mut self, block: &Decoded<'_>, columns: &[Option<&Values<'_>>]) {
        let mut repeats = Vec::new();
        self.find_repeats(block, |_| true, |row| repeats.push(row as u32));
        self.count(Fate::Duplicate, repeats.len() as u64);
        self.count(Fate::OnTime, (block.row_count - repeats.len()) as u64);
        if repeats.is_empty() {
            return self.on_time.append(block, columns, Chosen::All);
        }
        let mut repeats = repeats.into_iter().peekable();
        let firsts: Vec<u32> = (0..block.row_count as u32).filter(|row| repeats.next_if_eq(row).is_none()).collect();
        self.on_time.append(block, columns, Chosen::These(&firsts));
    }

    /// Takes a block reading by reading.
    fn push_rows(&mut self, record: &Record, block: &Decoded<'_>, columns: &[Option<&Values<'_>>]) {
        let times = block.times_us.iter().map(|us| Timestamp::from_micros(*us));
        let mut fates: Vec<Fate> = times.map(|time| self.fate(record.offset, time)).collect();
        let mut repeats = Vec::new();
        self.find_repeats(block, |row| fates[row] == Fate::OnTime, |row| repeats.push(row));
        for row in repeats {
            fates[row] = Fate::Duplicate;
        }
        self.find_unfit(record, block, columns, &mut fates);
        for fate in &fates {
            self.count(*fate, 1);
        }
        let rows_of = |wanted: Fate| -> Vec<u32> {
            (0..).zip(&fates).filter(|(_, fate)| **fate == wanted).map(|(row, _)| row).collect()
        };
        let (on_time, late) = (rows_of(Fate::OnTime), rows_of(Fate::Late));
        if !on_time.is_empty() {
            self.on_time.append(block, columns, Chosen::These(&on_time));
        }
        if self.rule.sets_aside() && !late.is_empty() {
            self.late.append(block, columns, Chosen::These(&late));
        }
    }

    /// Names the on-time readings that repeat a sequence number of their device, and notes the others.
    fn find_repeats(&mut self, block: &Decoded<'_>, on_time: impl Fn(usize) -> bool, mut repeat: impl FnMut(usize)) {
        let Some(seqs) = &block.seqs else { return };
        let before = std::mem::take(&mut self.numbers);
        let places = block.devices.iter().enumerate();
        self.numbers.extend(places.map(|(i, device)| self.dedup.number(device, before.get(i).copied())));
        let mut look = |row: usize, seq: u64| {
            let number = self.numbers[block.device_index[row] as usize];
            if on_time(row) && !self.dedup.is_new(number, seq, block.times_us[row]) {
                repeat(row);
            }
        };
        if seqs.presence.is_none() {
            seqs.values.iter().enumerate().for_each(|(row, seq)| look(row, *seq));
        } else {
            let rows = seqs.rows(block.row_count).enumerate();
            rows.filter_map(|(row, seq)| Some((row, seq?))).for_each(|(row, seq)| look(row, seq));
        }
    }

    /// Readings with a value of another type than the job declares.
    fn find_unfit(
        &mut self,
        record: &Record,
        block: &Decoded<'_>,
        columns: &[Option<&Values<'_>>],
        fates: &mut [Fate],
    ) {
        let mut unfit: BTreeMap<u32, String> = BTreeMap::new();
        for (i, found) in columns.iter().enumerate() {
            let (name, declared) = &self.columns[i];
            let Some((found, presence)) = mismatch(*found, *declared) else { continue };
            let reason = format!("column {name:?} is {found} but the job declares {}", declared.name());
            let before = unfit.len();
            for (row, fate) in fates.iter_mut().enumerate() {
                let on_time = match fate {
                    Fate::OnTime => true,
                    Fate::Late => false,
                    _ => continue,
                };
                if presence.is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1) {
                    *fate = Fate::Unfit { on_time };
                    unfit.insert(row as u32, reason.clone());
                }
            }
            if unfit.len() > before {
                self.reason(record, &reason);
            }
        }
        let found =
            self.columns.iter().zip(columns).filter_map(|((name, _), values)| Some((name.as_str(), (*values)?)));
        let found: Vec<_> = found.collect();
        // A text that a block has once may be that of all its readings. What would be too much is found in the block.
        let own = (UNFIT_BYTES / values::widest(&found)).min(unfit.len());
        let rows: Vec<u32> = unfit.keys().copied().take(own).collect();
        let mut values = values::of_rows(block.row_count, &rows, &found).into_iter();
        for (row, reason) in unfit {
            let device = block.devices[block.device_index[row as usize] as usize];
            let time = Timestamp::from_micros(block.times_us[row as usize]);
            self.quarantine.push_reading(record, device, time, &reason, values.next().as_deref());
        }
    }

    /// Whether enough rows are there to hand on.
    pub fn is_ready(&self) -> bool {
        let full = |rows: &Rows| rows.len() >= BATCH_ROWS || rows.text_bytes() >= BATCH_BYTES;
        let quarantine = self.quarantine.len() >= BATCH_ROWS || self.quarantine.bytes() >= BATCH_BYTES;
        full(&self.on_time) || full(&self.late) || quarantine
    }

    /// What has been collected since the last time.
    pub fn take(&mut self) -> Result<Taken, arrow::error::ArrowError> {
        let on_time = self.on_time.take()?;
        if let Some(batch) = &on_time {
            let declared = batch.columns().iter().skip(batch.num_columns() - self.present.len());
            for (present, column) in self.present.iter_mut().zip(declared) {
                *present |= column.null_count() < column.len();
            }
        }
        Ok(Taken { on_time, late: self.late.take()?, quarantine: self.quarantine.take()? })
    }

    /// Declared columns of which none of the readings that were taken has a value; none if there are no readings.
    pub fn absent(&self) -> Vec<String> {
        let absent = self.columns.iter().zip(&self.present).filter(|(_, present)| self.ledger.kept > 0 && !**present);
        absent.map(|((name, _), _)| name.clone()).collect()
    }

    /// The counts so far, and the first reasons of quarantine.
    pub fn ledger(&self) -> (Ledger, Vec<String>) {
        (self.ledger, self.reasons.clone())
    }

    /// The late readings so far that amend their windows.
    pub fn amends(&self) -> Option<&Amends> {
        self.amends.as_ref()
    }
}

/// What a column is and which rows have it, if that is not what the job declares. Whole numbers pass as floats, nothing
/// else does.
fn mismatch<'a>(found: Option<&'a Values<'_>>, declared: ValueType) -> Option<(&'static str, Option<&'a [u8]>)> {
    let (name, presence) = match found? {
        Values::F64(v) => ("f64", &v.presence),
        Values::I64(v) => ("i64", &v.presence),
        Values::Bool(v) => ("bool", &v.presence),
        Values::Text { index, .. } => ("string", &index.presence),
    };
    let fits = name == declared.name() || (name == "i64" && declared == ValueType::F64);
    (!fits).then_some((name, *presence))
}

#[cfg(test)]
mod tests;
