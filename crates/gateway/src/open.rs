//! A block that is being filled, by readings of any number of requests. Pure.

use std::sync::Arc;
use std::time::Duration;

use windrow_ports::log::Append;
use windrow_protocol::Timestamp;
use windrow_protocol::duration::Length;
use windrow_wire::block::{BlockBuilder, Reading, Value};

use crate::ticket::Ticket;

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
        self.builder.rows() >= limits.rows || self.builder.bytes() >= limits.bytes
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
