//! A block that is being filled, by readings of any number of requests. Pure.

use std::sync::Arc;
use std::time::Duration;

use windrow_ports::log::Append;
use windrow_protocol::Timestamp;
use windrow_protocol::duration::Length;
use windrow_wire::block::{BlockBuilder, Reading, Value};

use crate::ticket::Ticket;

/// A block with more columns is full: readings of ever new names must not cost more than their bytes.
const MAX_COLUMNS: usize = 1_000;

/// When a block is closed.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Readings. Default 1,000.
    pub rows: usize,
    /// Rough bytes. Default 256 KiB.
    pub bytes: usize,
    /// Event time from the earliest to the latest reading. Default 60 s.
    pub span: Length,
    /// How long a reading waits for company. Default 5 ms.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 1_000, bytes: 256 * 1024, span: Length::from_secs(60), linger: Duration::from_millis(5) }
    }
}

/// A block and who waits for it.
#[derive(Debug)]
pub struct OpenBlock {
    builder: BlockBuilder,
    /// When its first reading came, by the clock's `elapsed`.
    pub since: Duration,
    /// Each request once, with how many of the readings are its.
    tickets: Vec<(Arc<Ticket>, u64)>,
}

impl OpenBlock {
    pub fn new(since: Duration) -> Self {
        Self { builder: BlockBuilder::default(), since, tickets: Vec::new() }
    }

    /// Whether the reading would keep the block within its limits. Any reading may be a block's first.
    pub fn has_room_for(&self, reading: &Reading<'_>, limits: &Limits) -> bool {
        let Some((first, last)) = self.builder.time_range_us() else { return true };
        let span = last.max(reading.time_us).saturating_sub(first.min(reading.time_us));
        !self.is_full(limits)
            && self.builder.bytes() + size(reading) <= limits.bytes
            && span <= limits.span.micros()
            && self.builder.accepts(reading)
    }

    /// Whether no reading would fit.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.builder.rows() >= limits.rows
            || self.builder.bytes() >= limits.bytes
            || self.builder.columns() >= MAX_COLUMNS
    }

    pub fn push(&mut self, reading: &Reading<'_>, ticket: &Arc<Ticket>) {
        self.builder.push(reading);
        match self.tickets.last_mut() {
            Some((last, readings)) if Arc::ptr_eq(last, ticket) => *readings += 1,
            _ => self.tickets.push((ticket.clone(), 1)),
        }
    }

    /// The record, whose timestamp is the latest event time in it.
    pub fn close(mut self) -> (Append, Vec<(Arc<Ticket>, u64)>) {
        let latest_us = self.builder.time_range_us().map_or(0, |(_, last)| last);
        let record = Append { key: None, payload: self.builder.finish(), timestamp: Timestamp::from_micros(latest_us) };
        (record, self.tickets)
    }
}

/// The most that a reading adds to a block, roughly.
fn size(reading: &Reading<'_>) -> usize {
    let text = |value: &Value<'_>| if let Value::Text(text) = value { text.len() } else { 0 };
    let fields: usize = reading.fields.iter().map(|(_, value)| 16 + text(value)).sum();
    24 + reading.device.len() + fields
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use windrow_wire::block::decode;

    use super::*;

    fn reading<'a>(time_us: i64, fields: Vec<(&'a str, Value<'a>)>) -> Reading<'a> {
        Reading { device: "d", time_us, seq: None, fields }
    }

    fn block_of(readings: &[Reading<'_>]) -> OpenBlock {
        let mut block = OpenBlock::new(Duration::ZERO);
        readings.iter().for_each(|reading| block.builder.push(reading));
        block
    }

    #[test]
    fn a_block_ends_at_its_rows_bytes_span_and_at_a_change_of_type() {
        let limits = Limits { rows: 3, bytes: 10_000, ..Limits::default() };
        let text = "x".repeat(9_000);
        let (number, long) =
            (|us| reading(us, vec![("v", Value::F64(1.0))]), reading(0, vec![("t", Value::Text(&text))]));
        let block = block_of(&[number(0), number(60_000_000)]);
        assert!(block.has_room_for(&number(30_000_000), &limits));
        assert!(!block.has_room_for(&number(60_000_001), &limits), "the span from the earliest reading");
        assert!(!block.has_room_for(&number(-1), &limits), "the span to the latest reading");
        assert!(!block.has_room_for(&reading(0, vec![("v", Value::I64(1))]), &limits), "another type");
        assert!(!block_of(&[number(0), number(0), number(0)]).has_room_for(&number(0), &limits), "rows");
        assert!(!block_of(std::slice::from_ref(&long)).has_room_for(&long, &limits), "bytes");
        assert!(block_of(&[]).has_room_for(&reading(i64::MIN, vec![]), &limits), "any reading may be the first");
        assert!(!block_of(&[reading(i64::MIN, vec![])]).has_room_for(&reading(i64::MAX, vec![]), &limits));
    }

    #[test]
    fn readings_of_ever_new_names_make_no_record_that_a_log_refuses() {
        let names: Vec<String> = (0..20_000).map(|i| format!("n{i}")).collect();
        let limits = Limits::default();
        let mut block = OpenBlock::new(Duration::ZERO);
        let mut left = names.chunks(20);
        while !block.is_full(&limits) {
            let fields = left.next().unwrap().iter().map(|name| (name.as_str(), Value::Bool(true))).collect();
            block.builder.push(&reading(0, fields));
        }
        let (record, _) = block.close();
        let columns: BTreeSet<_> =
            decode(&record.payload).unwrap().columns.iter().map(|column| column.name.to_owned()).collect();
        assert!(
            columns.len() <= MAX_COLUMNS + 20 && record.payload.len() < 512 * 1024,
            "{} bytes",
            record.payload.len()
        );
    }
}
