//! From the bytes of a record to columns.

use std::collections::HashSet;

use super::varint::{take, unzigzag};
use super::{BLOCK_VERSION, BlockError, Decoded, DecodedColumn, MAX_ROWS, Sparse, Values};

/// Decodes and checks a whole block.
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, BlockError> {
    let mut raw = RawBlock::default();
    for_each_field(bytes, |field| raw.set(field))?;
    raw.check()
}

/// A field of a message: its number and what follows.
enum Field<'a> {
    Varint(u32, u64),
    Bytes(u32, &'a [u8]),
    Fixed64(u32, [u8; 8]),
    /// A 32-bit field: none is of this layout, but newer writers may add one.
    Other,
}

fn for_each_field<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(Field<'a>) -> Result<(), BlockError>,
) -> Result<(), BlockError> {
    while !bytes.is_empty() {
        let tag = take(&mut bytes)?;
        let number = u32::try_from(tag >> 3).map_err(|_| BlockError::Malformed("field number is too large"))?;
        let field = match tag & 7 {
            0 => Field::Varint(number, take(&mut bytes)?),
            1 => {
                let value = split(&mut bytes, 8)?;
                Field::Fixed64(number, value.try_into().map_err(|_| BlockError::Malformed("field is cut off"))?)
            }
            2 => {
                let len =
                    usize::try_from(take(&mut bytes)?).map_err(|_| BlockError::Malformed("length is too large"))?;
                Field::Bytes(number, split(&mut bytes, len)?)
            }
            5 => {
                split(&mut bytes, 4)?;
                Field::Other
            }
            _ => return Err(BlockError::Malformed("unknown wire type")),
        };
        each(field)?;
    }
    Ok(())
}

fn split<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], BlockError> {
    let (head, tail) = bytes.split_at_checked(len).ok_or(BlockError::Malformed("field is cut off"))?;
    *bytes = tail;
    Ok(head)
}

fn text(bytes: &[u8]) -> Result<&str, BlockError> {
    std::str::from_utf8(bytes).map_err(|_| BlockError::Malformed("text is not UTF-8"))
}

/// Appends packed varints. Their number is bounded by the bytes that are there: each ends with a byte below 0x80.
fn unpack<T>(mut bytes: &[u8], out: &mut Vec<T>, mut convert: impl FnMut(u64) -> T) -> Result<(), BlockError> {
    out.reserve(bytes.iter().filter(|byte| **byte < 0x80).count());
    while !bytes.is_empty() {
        out.push(convert(take(&mut bytes)?));
    }
    Ok(())
}

/// Appends packed indexes.
fn unpack_index(bytes: &[u8], out: &mut Vec<u32>) -> Result<(), BlockError> {
    let mut bits = 0;
    unpack(bytes, out, |value| {
        bits |= value;
        value as u32
    })?;
    index(bits).map(drop)
}

fn index(value: u64) -> Result<u32, BlockError> {
    u32::try_from(value).map_err(|_| BlockError::Malformed("index is too large"))
}

/// Appends doubles.
fn unpack_floats(bytes: &[[u8; 8]], out: &mut Vec<f64>) -> Result<(), BlockError> {
    let before = out.len();
    out.extend(bytes.iter().map(|value| f64::from_le_bytes(*value)));
    // No early exit: this way it is a loop without branches.
    let finite = out[before..].iter().fold(true, |all, value| all & value.is_finite());
    if finite { Ok(()) } else { Err(BlockError::Malformed("a value is NaN or infinite")) }
}

/// A delta-coded column: the value that the next difference counts from, and the values so far. Wraps as writers do; a
/// time outside of the calendar is clamped by who reads it.
#[derive(Default)]
struct Deltas {
    last: i64,
    values: Vec<i64>,
}

impl Deltas {
    fn unpack(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        let last = &mut self.last;
        unpack(bytes, &mut self.values, |delta| {
            *last = last.wrapping_add(unzigzag(delta));
            *last
        })
    }

    fn push(&mut self, delta: u64) {
        self.last = self.last.wrapping_add(unzigzag(delta));
        self.values.push(self.last);
    }
}

/// A block as it comes, before its parts are checked against each other.
#[derive(Default)]
struct RawBlock<'a> {
    version: u64,
    row_count: u64,
    devices: Vec<&'a str>,
    device_index: Vec<u32>,
    times: Deltas,
    seq_presence: &'a [u8],
    seqs: Deltas,
    columns: Vec<RawColumn<'a>>,
}

impl<'a> RawBlock<'a> {
    fn set(&mut self, field: Field<'a>) -> Result<(), BlockError> {
        match field {
            Field::Varint(1, value) => self.version = value,
            Field::Varint(2, value) => self.row_count = value,
            Field::Bytes(3, bytes) => self.devices.push(text(bytes)?),
            Field::Bytes(4, bytes) => unpack_index(bytes, &mut self.device_index)?,
            Field::Varint(4, value) => self.device_index.push(index(value)?),
            Field::Bytes(5, bytes) => self.times.unpack(bytes)?,
            Field::Varint(5, value) => self.times.push(value),
            Field::Bytes(6, bytes) => self.seq_presence = bytes,
            Field::Bytes(7, bytes) => self.seqs.unpack(bytes)?,
            Field::Varint(7, value) => self.seqs.push(value),
            Field::Bytes(8, bytes) => self.columns.push(RawColumn::read(bytes)?),
            // Fields of newer writers that do not change the meaning of these.
            _ => {}
        }
        Ok(())
    }

    fn check(self) -> Result<Decoded<'a>, BlockError> {
        match u32::try_from(self.version) {
            Ok(BLOCK_VERSION) => {}
            version => return Err(BlockError::Version(version.unwrap_or(u32::MAX))),
        }
        let rows = usize::try_from(self.row_count).unwrap_or(usize::MAX);
        if rows > MAX_ROWS {
            return Err(inconsistent(format!("{rows} rows are declared; at most {MAX_ROWS} can be")));
        }
        let times_us = self.times.values;
        if times_us.len() != rows {
            return Err(inconsistent(format!("{rows} rows are declared but {} times are there", times_us.len())));
        }
        let device_index = check_devices(&self.devices, self.device_index, rows)?;
        let seqs = check_seqs(self.seq_presence, self.seqs.values, rows)?;
        let mut columns: Vec<DecodedColumn<'a>> = Vec::with_capacity(self.columns.len());
        let mut names = HashSet::with_capacity(self.columns.len());
        for raw in self.columns {
            if !names.insert(raw.name) {
                return Err(inconsistent(format!("column {:?} is there twice", raw.name)));
            }
            columns.push(raw.check(rows)?);
        }
        Ok(Decoded { row_count: rows, devices: self.devices, device_index, times_us, seqs, columns })
    }
}

fn check_devices(devices: &[&str], mut index: Vec<u32>, rows: usize) -> Result<Vec<u32>, BlockError> {
    if index.is_empty() && devices.len() == 1 {
        index = vec![0; rows];
    }
    if index.len() != rows {
        return Err(inconsistent(format!("{rows} rows are declared but {} have a device", index.len())));
    }
    check_index(&index, devices.len(), "device")?;
    if devices.iter().any(|device| device.is_empty()) {
        return Err(inconsistent("a device id is empty".to_owned()));
    }
    Ok(index)
}

fn check_seqs(presence: &[u8], values: Vec<i64>, rows: usize) -> Result<Option<Sparse<'_, u64>>, BlockError> {
    if presence.is_empty() && values.is_empty() {
        return Ok(None);
    }
    let presence = check_presence(presence, values.len(), rows, "seq")?;
    // The same bits: deltas wrap, so that every u64 can follow every other. The allocation is kept.
    let values = values.into_iter().map(|seq| seq as u64).collect();
    Ok(Some(Sparse { presence, values }))
}

fn inconsistent(what: String) -> BlockError {
    BlockError::Inconsistent(what)
}

fn check_index(index: &[u32], len: usize, what: &str) -> Result<(), BlockError> {
    match index.iter().max() {
        Some(&max) if max as usize >= len => {
            Err(inconsistent(format!("{what} index {max} is beyond the {len} entries")))
        }
        _ => Ok(()),
    }
}

/// Checks a presence bitmap against the number of rows and of values.
fn check_presence<'a>(bits: &'a [u8], values: usize, rows: usize, what: &str) -> Result<Option<&'a [u8]>, BlockError> {
    let present = if bits.is_empty() {
        rows
    } else {
        if bits.len() != rows.div_ceil(8) {
            return Err(inconsistent(format!("presence of {what:?} has {} bytes for {rows} rows", bits.len())));
        }
        let spare = bits.len() * 8 - rows;
        if spare > 0 && bits.last().is_some_and(|last| last >> (8 - spare) != 0) {
            return Err(inconsistent(format!("presence of {what:?} has bits beyond the last row")));
        }
        bits.iter().map(|byte| byte.count_ones() as usize).sum()
    };
    if values != present {
        return Err(inconsistent(format!("{what:?} has {values} values for {present} rows that have one")));
    }
    Ok((!bits.is_empty()).then_some(bits))
}

#[derive(Default)]
struct RawColumn<'a> {
    name: &'a str,
    kind: u64,
    presence: &'a [u8],
    f64s: Vec<f64>,
    i64s: Vec<i64>,
    bools: &'a [u8],
    dictionary: Vec<&'a str>,
    index: Vec<u32>,
}

impl<'a> RawColumn<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, BlockError> {
        let mut column = Self::default();
        for_each_field(bytes, |field| column.set(field))?;
        Ok(column)
    }

    fn set(&mut self, field: Field<'a>) -> Result<(), BlockError> {
        match field {
            Field::Bytes(1, bytes) => self.name = text(bytes)?,
            Field::Varint(2, value) => self.kind = value,
            Field::Bytes(3, bytes) => self.presence = bytes,
            Field::Bytes(4, bytes) => {
                let (values, rest) = bytes.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(BlockError::Malformed("packed doubles are cut off"));
                }
                unpack_floats(values, &mut self.f64s)?;
            }
            Field::Fixed64(4, value) => unpack_floats(&[value], &mut self.f64s)?,
            Field::Bytes(5, bytes) => unpack(bytes, &mut self.i64s, unzigzag)?,
            Field::Varint(5, value) => self.i64s.push(unzigzag(value)),
            Field::Bytes(6, bytes) => self.bools = bytes,
            Field::Bytes(7, bytes) => self.dictionary.push(text(bytes)?),
            Field::Bytes(8, bytes) => unpack_index(bytes, &mut self.index)?,
            Field::Varint(8, value) => self.index.push(index(value)?),
            _ => {}
        }
        Ok(())
    }

    fn check(self, rows: usize) -> Result<DecodedColumn<'a>, BlockError> {
        let name = self.name;
        if name.is_empty() {
            return Err(inconsistent("a column has no name".to_owned()));
        }
        let values = match self.kind {
            1 => Values::F64(Sparse {
                presence: check_presence(self.presence, self.f64s.len(), rows, name)?,
                values: self.f64s,
            }),
            2 => Values::I64(Sparse {
                presence: check_presence(self.presence, self.i64s.len(), rows, name)?,
                values: self.i64s,
            }),
            3 => Values::Bool(self.check_bools(rows)?),
            4 => {
                check_index(&self.index, self.dictionary.len(), name)?;
                let presence = check_presence(self.presence, self.index.len(), rows, name)?;
                Values::Text { dictionary: self.dictionary, index: Sparse { presence, values: self.index } }
            }
            kind => return Err(inconsistent(format!("column {name:?} has unknown type {kind}"))),
        };
        Ok(DecodedColumn { name, values })
    }

    /// Booleans are bits, so their number follows from the presence.
    fn check_bools(&self, rows: usize) -> Result<Sparse<'a, bool>, BlockError> {
        let present =
            if self.presence.is_empty() { rows } else { self.presence.iter().map(|b| b.count_ones() as usize).sum() };
        if self.bools.len() != present.div_ceil(8) {
            return Err(inconsistent(format!(
                "{:?} has {} bytes of bits for {present} rows",
                self.name,
                self.bools.len()
            )));
        }
        let presence = check_presence(self.presence, present, rows, self.name)?;
        Ok(Sparse { presence, values: (0..present).map(|i| super::bit(self.bools, i)).collect() })
    }
}
