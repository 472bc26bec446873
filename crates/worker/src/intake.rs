//! From log records to `readings`: decodes, decides whose each reading is, removes repeats, and counts all of it.
//!
//! The rule (see `windrow_protocol::cut`): a reading of the window is on time; one of an earlier window is late if this
//! batch owns its offset; everything else belongs to other batches. What can't be used is kept in quarantine.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use windrow_ports::log::Record;
use windrow_processing::readings_schema;
use windrow_protocol::job::{Format, LatePolicy, ValueType};
use windrow_protocol::{JobSpec, Ledger, OffsetRange, Plan, Timestamp, Window};
use windrow_wire::block::{self, Decoded, DecodedColumn, Values};

mod dedup;
mod json;
mod rows;

use dedup::Dedup;
pub use rows::quarantine_schema;
use rows::{Quarantine, Rows};

/// Rows that are collected before they are handed on.
const BATCH_ROWS: usize = 8_192;

/// Reasons that a marker repeats for people.
const MAX_REASONS: usize = 10;

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
    Late,
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
    on_time: Rows,
    late: Rows,
    quarantine: Quarantine,
    dedup: Dedup,
    ledger: Ledger,
    reasons: Vec<String>,
}

impl Intake {
    pub fn new(spec: &JobSpec, plan: &Plan) -> Self {
        let values = spec.source.values.iter().map(|(name, kind)| (name.clone(), *kind));
        let tags = spec.source.tags.iter().map(|name| (name.clone(), ValueType::String));
        let columns: Vec<(String, ValueType)> = values.chain(tags).collect();
        let schema = readings_schema(spec);
        Self {
            spec: spec.clone(),
            window: plan.window,
            owned: plan.owned,
            on_time: Rows::new(schema.clone(), &columns),
            late: Rows::new(schema, &columns),
            columns,
            quarantine: Quarantine::default(),
            dedup: Dedup::default(),
            ledger: Ledger { lost_offsets: plan.lost.map_or(0, |lost| lost.len()), ..Ledger::default() },
            reasons: Vec::new(),
        }
    }

    /// The schema of on-time and late batches.
    pub fn schema(&self) -> SchemaRef {
        readings_schema(&self.spec)
    }

    /// Takes one record. Nothing that it holds is an error: what is unfit goes to quarantine.
    pub fn push(&mut self, record: &Record) {
        self.ledger.records += 1;
        match self.spec.source.format {
            Format::Windrow => match block::decode(&record.payload) {
                Ok(block) => self.push_block(record, &block),
                Err(error) => self.undecodable(record, &error.to_string()),
            },
            Format::Json => self.push_json(record),
        }
    }

    fn undecodable(&mut self, record: &Record, reason: &str) {
        self.ledger.undecodable += 1;
        self.reason(record, reason);
        self.quarantine.push(record, None, None, reason);
    }

    fn reason(&mut self, record: &Record, reason: &str) {
        if self.reasons.len() < MAX_REASONS {
            self.reasons.push(format!("offset {}: {reason}", record.offset));
        }
    }

    fn push_json(&mut self, record: &Record) {
        let message = match json::parse(record, &self.spec, &self.columns) {
            Ok(message) => message,
            Err(reason) => return self.undecodable(record, &reason),
        };
        for bad in message.unfit {
            // Without a usable time of its own a reading counts by its message's.
            let time = bad.time.unwrap_or(record.timestamp);
            let fate = match self.fate(record, time) {
                Fate::OnTime => Fate::Unfit { on_time: true },
                Fate::Late => Fate::Unfit { on_time: false },
                other => other,
            };
            self.count(fate);
            if matches!(fate, Fate::Unfit { .. }) {
                self.reason(record, &bad.reason);
                self.quarantine.push(record, None, Some(time), &bad.reason);
            }
        }
        for mut builder in message.blocks {
            let bytes = builder.finish();
            match block::decode(&bytes) {
                Ok(block) => self.push_block(record, &block),
                Err(error) => self.undecodable(record, &error.to_string()),
            }
        }
    }

    fn fate(&self, record: &Record, time: Timestamp) -> Fate {
        if self.window.contains(time) {
            Fate::OnTime
        } else if time < self.window.start && self.owned.contains(record.offset) {
            Fate::Late
        } else {
            Fate::Skipped
        }
    }

    fn count(&mut self, fate: Fate) {
        self.ledger.read += 1;
        match fate {
            Fate::Late | Fate::Unfit { on_time: false } => self.ledger.late += 1,
            Fate::Skipped => self.ledger.skipped += 1,
            Fate::OnTime => {
                self.ledger.on_time += 1;
                self.ledger.kept += 1;
            }
            Fate::Duplicate => {
                self.ledger.on_time += 1;
                self.ledger.duplicate += 1;
            }
            Fate::Unfit { on_time: true } => {
                self.ledger.on_time += 1;
                self.ledger.quarantined += 1;
            }
        }
    }

    fn push_block(&mut self, record: &Record, block: &Decoded<'_>) {
        let times: Vec<Timestamp> = block.times_us.iter().map(|us| Timestamp::from_micros(*us)).collect();
        let mut fates: Vec<Fate> = times.iter().map(|time| self.fate(record, *time)).collect();
        self.find_duplicates(block, &times, &mut fates);
        let columns: Vec<Option<&DecodedColumn<'_>>> =
            self.columns.iter().map(|(name, _)| block.columns.iter().find(|column| column.name == name)).collect();
        self.find_unfit(record, block, &columns, &times, &mut fates);
        for fate in &fates {
            self.count(*fate);
        }
        if fates.contains(&Fate::OnTime) {
            self.on_time.append(block, &times, &columns, |row| fates[row] == Fate::OnTime);
        }
        if self.spec.late == LatePolicy::Side && fates.contains(&Fate::Late) {
            self.late.append(block, &times, &columns, |row| fates[row] == Fate::Late);
        }
    }

    fn find_duplicates(&mut self, block: &Decoded<'_>, times: &[Timestamp], fates: &mut [Fate]) {
        let Some(seqs) = &block.seqs else { return };
        for (row, seq) in seqs.rows(block.row_count).enumerate() {
            let device = block.devices[block.device_index[row] as usize];
            if let Some(seq) = seq
                && fates[row] == Fate::OnTime
                && !self.dedup.is_new(device, seq, times[row].micros())
            {
                fates[row] = Fate::Duplicate;
            }
        }
    }

    /// Readings with a value of another type than the job declares. Whole numbers pass as floats, nothing else does.
    fn find_unfit(
        &mut self,
        record: &Record,
        block: &Decoded<'_>,
        columns: &[Option<&DecodedColumn<'_>>],
        times: &[Timestamp],
        fates: &mut [Fate],
    ) {
        for (i, column) in columns.iter().enumerate() {
            let Some(column) = column else { continue };
            let (name, declared) = &self.columns[i];
            let (found, presence) = match &column.values {
                Values::F64(v) => ("f64", &v.presence),
                Values::I64(v) => ("i64", &v.presence),
                Values::Bool(v) => ("bool", &v.presence),
                Values::Text { index, .. } => ("string", &index.presence),
            };
            if found == declared.name() || (found == "i64" && *declared == ValueType::F64) {
                continue;
            }
            let reason = format!("column {name:?} is {found} but the job declares {}", declared.name());
            for row in 0..block.row_count {
                let present = presence.as_ref().is_none_or(|bits| bits[row / 8] >> (row % 8) & 1 == 1);
                let on_time = match fates[row] {
                    Fate::OnTime => true,
                    Fate::Late => false,
                    _ => continue,
                };
                if present {
                    fates[row] = Fate::Unfit { on_time };
                    let device = block.devices[block.device_index[row] as usize];
                    self.quarantine.push(record, Some(device), Some(times[row]), &reason);
                }
            }
            self.reason(record, &reason);
        }
    }

    /// Whether enough rows are there to hand on.
    pub fn is_ready(&self) -> bool {
        self.on_time.len() >= BATCH_ROWS || self.late.len() >= BATCH_ROWS || self.quarantine.len() >= BATCH_ROWS
    }

    /// What has been collected since the last time.
    pub fn take(&mut self) -> Result<Taken, arrow::error::ArrowError> {
        Ok(Taken { on_time: self.on_time.take()?, late: self.late.take()?, quarantine: self.quarantine.take()? })
    }

    /// The counts so far, and the first reasons of quarantine.
    pub fn ledger(&self) -> (Ledger, Vec<String>) {
        (self.ledger, self.reasons.clone())
    }

    /// Offsets that were planned but are gone from the log.
    pub fn lose(&mut self, offsets: u64) {
        self.ledger.lost_offsets = self.ledger.lost_offsets.max(offsets);
    }
}

#[cfg(test)]
mod tests;
