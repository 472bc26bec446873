//! The second pass: the rows of all files in one order of time.
//!
//! A watermark passes with the first file's last row, so a second file sent after it would be late. Files in order are
//! merged as they are read; the rows of others are sorted in memory first, up to a limit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::{Context, Result, ensure};
use windrow_wire::v1;
use windrow_wire::v1::field::Value;

use super::cell;
use super::input::Record;
use super::plan::{FilePlan, Plan, Seq};

/// A row as it is sent.
#[derive(Debug)]
pub struct Row {
    pub time_us: i64,
    /// Which file, and which row of it.
    pub file: usize,
    pub row: u64,
    pub device: String,
    pub seq: Option<u64>,
    /// In the order of the plan's fields.
    pub values: Vec<Option<Value>>,
}

/// The rows of one file, by time.
type Rows<'a> = Box<dyn Iterator<Item = Result<Row>> + 'a>;

impl Plan {
    /// All rows by time; those of the same time in the order of files and rows. `sort_bytes`: what rows that must be sorted
    /// may take in memory.
    pub fn rows(&self, sort_bytes: u64) -> Result<Merged<'_>> {
        let needed: u64 = self.files.iter().filter(|file| !file.is_sorted).map(|file| file.bytes).sum();
        ensure!(
            needed <= sort_bytes,
            "the files are not in order of time, and sorting them takes about {} MiB of memory, more than the {} that \
             --sort-memory-mib allows: allow more, or sort them before, e.g. with DuckDB: \
             COPY (SELECT * FROM 'in.csv' ORDER BY time) TO 'out.csv'",
            needed.div_ceil(1 << 20),
            sort_bytes >> 20
        );
        let mut heads = BinaryHeap::with_capacity(self.files.len());
        let mut files = Vec::with_capacity(self.files.len());
        for (index, file) in self.files.iter().enumerate() {
            let mut rows = self.file_rows(index, file)?;
            if let Some(first) = rows.next() {
                heads.push(Reverse(Head(first?)));
            }
            files.push(rows);
        }
        Ok(Merged { heads, files })
    }

    fn file_rows<'a>(&'a self, index: usize, file: &'a FilePlan) -> Result<Rows<'a>> {
        let records = file.input.records(&self.mapping.columns)?;
        let rows = records.filter_map(move |record| match record {
            Ok(record) => self.row(index, file, record).transpose(),
            Err(error) => Some(Err(error)),
        });
        if file.is_sorted {
            return Ok(Box::new(rows));
        }
        let mut rows: Vec<Row> = rows.collect::<Result<_>>()?;
        // Stable: rows of the same time stay in their order.
        rows.sort_by_key(|row| row.time_us);
        Ok(Box::new(rows.into_iter().map(Ok)))
    }

    /// A row; none if it is bad and bad ones are left out.
    fn row(&self, index: usize, file: &FilePlan, record: Record) -> Result<Option<Row>> {
        let read = record.cells.map_err(|reason| (String::new(), reason)).and_then(|cells| {
            let parsed = self.rules.read(&self.mapping, &cells, &file.device, &file.time_format)?;
            let mut values = Vec::with_capacity(self.mapping.fields.len());
            for (field, kind) in self.mapping.fields.iter().zip(&self.kinds) {
                let (raw, wrong) = (&cells[field.at], |what: &str| (field.name.clone(), what.to_owned()));
                let cell = self.rules.reader.read(raw).map_err(wrong)?;
                values.push(match (kind, cell) {
                    (Some(kind), cell) if cell != cell::Cell::Absent => {
                        Some(cell::value(*kind, cell, raw).ok_or_else(|| wrong("it has another type"))?)
                    }
                    _ => None,
                });
            }
            Ok((parsed, values))
        });
        match read {
            Ok((parsed, values)) => {
                let seq = parsed.seq.or(match (self.mapping.seq, self.rules.seq) {
                    (Some(_), _) | (None, Seq::None) => None,
                    (None, Seq::Row) => Some(file.seq_base.wrapping_add(record.row)),
                    // Any number will do that is the same for the same time.
                    (None, Seq::Time) => Some(parsed.time_us.cast_unsigned()),
                });
                let (time_us, device) = (parsed.time_us, parsed.device);
                Ok(Some(Row { time_us, file: index, row: record.row, device, seq, values }))
            }
            Err(_) if self.rules.skip_bad => Ok(None),
            // The first pass found nothing wrong.
            Err((column, reason)) => Err(anyhow::anyhow!("column {column:?}: {reason}"))
                .with_context(|| format!("{}: row {} has changed since it was checked", file.input.name, record.row)),
        }
    }

    /// The row as the gateway takes it.
    pub fn reading(&self, row: Row) -> v1::Reading {
        let named = self.mapping.fields.iter().zip(row.values);
        let fields = named
            .filter_map(|(field, value)| value.map(|value| v1::Field { name: field.name.clone(), value: Some(value) }));
        v1::Reading { device: row.device, time_us: row.time_us, seq: row.seq, fields: fields.collect() }
    }
}

/// The next row of a file.
struct Head(Row);

impl Head {
    fn key(&self) -> (i64, usize) {
        (self.0.time_us, self.0.file)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// See [`Plan::rows`].
pub struct Merged<'a> {
    heads: BinaryHeap<Reverse<Head>>,
    files: Vec<Rows<'a>>,
}

impl Iterator for Merged<'_> {
    type Item = Result<Row>;
    fn next(&mut self) -> Option<Result<Row>> {
        let Reverse(Head(row)) = self.heads.pop()?;
        match self.files[row.file].next() {
            Some(Ok(next)) => self.heads.push(Reverse(Head(next))),
            Some(Err(error)) => return Some(Err(error)),
            None => {}
        }
        Some(Ok(row))
    }
}

#[cfg(test)]
mod tests;
