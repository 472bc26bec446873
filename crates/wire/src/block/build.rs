//! From readings to the bytes of a record.

use std::collections::HashMap;

use bytes::Bytes;

use super::BLOCK_VERSION;
use super::varint::{put, zigzag};

/// A reading to add to a block.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading<'a> {
    /// Not empty.
    pub device: &'a str,
    pub time_us: i64,
    pub seq: Option<u64>,
    /// Each name once; floats are finite.
    pub fields: Vec<(&'a str, Value<'a>)>,
}

/// A value of a reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(&'a str),
}

impl Value<'_> {
    fn kind(&self) -> u8 {
        match self {
            Self::F64(_) => 1,
            Self::I64(_) => 2,
            Self::Bool(_) => 3,
            Self::Text(_) => 4,
        }
    }
}

/// Collects readings by column.
#[derive(Debug, Default)]
pub struct BlockBuilder {
    rows: usize,
    devices: Dictionary,
    device_index: Vec<u32>,
    times_us: Vec<i64>,
    seq_rows: Vec<u32>,
    seqs: Vec<u64>,
    columns: Vec<ColumnBuilder>,
    positions: HashMap<String, usize>,
    /// Earliest and latest of `times_us`.
    range_us: Option<(i64, i64)>,
    /// Rough size of what has been added.
    bytes: usize,
}

impl BlockBuilder {
    /// Whether a reading can join this block: a column has one type throughout a block, so a reading whose value has
    /// another type than the block's column of that name belongs into the next block.
    pub fn accepts(&self, reading: &Reading<'_>) -> bool {
        reading.fields.iter().enumerate().all(|(at, (name, value))| {
            self.find(at, name).is_none_or(|column| self.columns[column].kind == value.kind())
        })
    }

    /// Adds a reading that the block [`accepts`](Self::accepts); the value of a field with another type is left out.
    pub fn push(&mut self, reading: &Reading<'_>) {
        let row = self.rows as u32;
        self.device_index.push(self.devices.intern(reading.device, &mut self.bytes));
        let (first, last) = self.range_us.unwrap_or((reading.time_us, reading.time_us));
        self.range_us = Some((first.min(reading.time_us), last.max(reading.time_us)));
        self.times_us.push(reading.time_us);
        if let Some(seq) = reading.seq {
            self.seq_rows.push(row);
            self.seqs.push(seq);
        }
        self.bytes += 8;
        for (at, (name, value)) in reading.fields.iter().enumerate() {
            let column = self.column(at, name, value.kind());
            let column = &mut self.columns[column];
            column.push(row, value, &mut self.bytes);
        }
        self.rows += 1;
    }

    /// The column of that name. Readings tend to have the same fields in the same order, so `at` is tried first.
    fn find(&self, at: usize, name: &str) -> Option<usize> {
        if self.columns.get(at).is_some_and(|column| column.name == name) {
            return Some(at);
        }
        self.positions.get(name).copied()
    }

    fn column(&mut self, at: usize, name: &str, kind: u8) -> usize {
        if let Some(found) = self.find(at, name) {
            return found;
        }
        self.bytes += name.len() + 8;
        self.positions.insert(name.to_owned(), self.columns.len());
        self.columns.push(ColumnBuilder { name: name.to_owned(), kind, ..ColumnBuilder::default() });
        self.columns.len() - 1
    }

    /// Readings so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rough size of the encoded block so far.
    pub fn bytes(&self) -> usize {
        // A column that not every row has costs a bit of each row.
        self.bytes + self.columns.len() * self.rows / 8
    }

    /// Columns so far.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Earliest and latest event time so far.
    pub fn time_range_us(&self) -> Option<(i64, i64)> {
        self.range_us
    }

    /// Encodes what was added and starts afresh.
    pub fn finish(&mut self) -> Bytes {
        let block = std::mem::take(self);
        let mut out = Vec::with_capacity(block.bytes + 64);
        put_varint_field(&mut out, 1, u64::from(BLOCK_VERSION));
        put_varint_field(&mut out, 2, block.rows as u64);
        for device in &block.devices.entries {
            put_bytes_field(&mut out, 3, device.as_bytes());
        }
        if block.devices.entries.len() > 1 {
            put_packed(&mut out, 4, block.device_index.iter().map(|&i| u64::from(i)));
        }
        put_packed(&mut out, 5, deltas(block.times_us.iter().copied()));
        if !block.seqs.is_empty() {
            put_presence(&mut out, 6, &block.seq_rows, block.rows);
            put_packed(&mut out, 7, deltas(block.seqs.iter().map(|&seq| seq as i64)));
        }
        let mut scratch = Vec::new();
        for column in &block.columns {
            scratch.clear();
            column.encode(&mut scratch, block.rows);
            put_bytes_field(&mut out, 8, &scratch);
        }
        out.into()
    }
}

#[derive(Debug, Default)]
struct Dictionary {
    entries: Vec<String>,
    positions: HashMap<String, u32>,
    last: u32,
}

impl Dictionary {
    fn intern(&mut self, text: &str, bytes: &mut usize) -> u32 {
        // Runs of one device, and tags that rarely change.
        if self.entries.get(self.last as usize).is_some_and(|last| last == text) {
            return self.last;
        }
        self.last = match self.positions.get(text) {
            Some(&position) => position,
            None => {
                let position = self.entries.len() as u32;
                self.entries.push(text.to_owned());
                self.positions.insert(text.to_owned(), position);
                *bytes += text.len() + 2;
                position
            }
        };
        self.last
    }
}

#[derive(Debug, Default)]
struct ColumnBuilder {
    name: String,
    kind: u8,
    /// Rows that have a value.
    rows: Vec<u32>,
    f64s: Vec<f64>,
    i64s: Vec<i64>,
    bools: Vec<bool>,
    dictionary: Dictionary,
    index: Vec<u32>,
}

impl ColumnBuilder {
    fn push(&mut self, row: u32, value: &Value<'_>, bytes: &mut usize) {
        if value.kind() != self.kind || self.rows.last() == Some(&row) {
            return;
        }
        self.rows.push(row);
        *bytes += 8;
        match *value {
            Value::F64(value) => self.f64s.push(value),
            Value::I64(value) => self.i64s.push(value),
            Value::Bool(value) => self.bools.push(value),
            Value::Text(value) => self.index.push(self.dictionary.intern(value, bytes)),
        }
    }

    fn encode(&self, out: &mut Vec<u8>, rows: usize) {
        put_bytes_field(out, 1, self.name.as_bytes());
        put_varint_field(out, 2, u64::from(self.kind));
        put_presence(out, 3, &self.rows, rows);
        if !self.f64s.is_empty() {
            put(out, 4 << 3 | 2);
            put(out, self.f64s.len() as u64 * 8);
            out.extend(self.f64s.iter().flat_map(|value| value.to_le_bytes()));
        }
        if !self.i64s.is_empty() {
            put_packed(out, 5, self.i64s.iter().map(|&value| zigzag(value)));
        }
        if !self.bools.is_empty() {
            let set = self.bools.iter().enumerate().filter(|(_, value)| **value).map(|(i, _)| i as u32);
            put_bytes_field(out, 6, &bitmap(set, self.bools.len()));
        }
        for entry in &self.dictionary.entries {
            put_bytes_field(out, 7, entry.as_bytes());
        }
        if !self.index.is_empty() {
            put_packed(out, 8, self.index.iter().map(|&i| u64::from(i)));
        }
    }
}

fn deltas(values: impl Iterator<Item = i64>) -> impl Iterator<Item = u64> {
    values.scan(0i64, |last, value| {
        let delta = value.wrapping_sub(*last);
        *last = value;
        Some(zigzag(delta))
    })
}

fn put_varint_field(out: &mut Vec<u8>, number: u64, value: u64) {
    put(out, number << 3);
    put(out, value);
}

fn put_bytes_field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put(out, number << 3 | 2);
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_packed(out: &mut Vec<u8>, number: u64, values: impl Iterator<Item = u64>) {
    let mut packed = Vec::with_capacity(values.size_hint().0 * 2);
    for value in values {
        put(&mut packed, value);
    }
    put_bytes_field(out, number, &packed);
}

/// A presence bitmap, left out when all rows are present.
fn put_presence(out: &mut Vec<u8>, number: u64, present: &[u32], rows: usize) {
    if present.len() != rows {
        put_bytes_field(out, number, &bitmap(present.iter().copied(), rows));
    }
}

fn bitmap(set: impl Iterator<Item = u32>, len: usize) -> Vec<u8> {
    let mut bits = vec![0u8; len.div_ceil(8)];
    for i in set {
        bits[i as usize / 8] |= 1 << (i % 8);
    }
    bits
}
