//! The block codec: the columnar record that gateways write and workers read (`proto/windrow/v1/block.proto`).
//!
//! Written by hand over the wire bytes, since this is the hot path: [`decode`] borrows strings and bitmaps from the
//! record and copies each column once; [`BlockBuilder`] keeps columns, never rows. Anything malformed is a [`BlockError`], never a panic, and
//! no size in the input is trusted before it is checked against the bytes that are there.

mod build;
mod decode;
mod varint;

pub use build::{BlockBuilder, Reading, Value};
pub use decode::decode;

/// The version of the layout that is written, and the newest that is read.
pub const BLOCK_VERSION: u32 = 1;

/// The most readings of one block. Gateways stay near 1,000; the cap bounds what a hostile record can make a worker allocate.
pub const MAX_ROWS: usize = 1_000_000;

/// Why a record is no block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The bytes are no protobuf message of this shape.
    #[error("malformed block: {0}")]
    Malformed(&'static str),
    /// A newer writer's layout.
    #[error("block has version {0}; this reader knows {BLOCK_VERSION}")]
    Version(u32),
    /// Parts of the block contradict each other.
    #[error("inconsistent block: {0}")]
    Inconsistent(String),
}

/// A decoded block: all columns have `row_count` rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded<'a> {
    pub row_count: usize,
    /// Device ids that occur.
    pub devices: Vec<&'a str>,
    /// For each row an index into `devices`, in bounds.
    pub device_index: Vec<u32>,
    /// For each row the event time, microseconds since the epoch.
    pub times_us: Vec<i64>,
    /// For each row the sequence number, if it has one; `None` if no row has one.
    pub seqs: Option<Sparse<'a, u64>>,
    /// Named values, each name once.
    pub columns: Vec<DecodedColumn<'a>>,
}

/// Values of the rows that have one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sparse<'a, T> {
    /// Bit `i % 8` of byte `i / 8` tells whether row `i` has a value; `None`: all rows have.
    pub presence: Option<&'a [u8]>,
    /// As many values as there are present rows.
    pub values: Vec<T>,
}

impl<T: Copy> Sparse<'_, T> {
    /// Whether row `i` has a value.
    pub fn is_present(&self, i: usize) -> bool {
        self.presence.is_none_or(|bits| bit(bits, i))
    }

    /// One item per row.
    pub fn rows(&self, row_count: usize) -> impl Iterator<Item = Option<T>> + '_ {
        let mut values = self.values.iter();
        (0..row_count).map(move |i| if self.is_present(i) { values.next().copied() } else { None })
    }
}

/// A named column.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedColumn<'a> {
    pub name: &'a str,
    pub values: Values<'a>,
}

/// A column's values by type.
#[derive(Debug, Clone, PartialEq)]
pub enum Values<'a> {
    F64(Sparse<'a, f64>),
    I64(Sparse<'a, i64>),
    Bool(Sparse<'a, bool>),
    /// Indexes into the dictionary, in bounds.
    Text {
        dictionary: Vec<&'a str>,
        index: Sparse<'a, u32>,
    },
}

pub(crate) fn bit(bits: &[u8], i: usize) -> bool {
    bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
}

#[cfg(test)]
mod tests;
