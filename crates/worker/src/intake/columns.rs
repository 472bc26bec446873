//! Column builders that take a block's columns whole: numbers are copied as slices, a string once per dictionary entry.

use std::sync::Arc;

use arrow::array::{Array, ArrayBuilder, ArrayRef, BooleanArray, PrimitiveArray, StringViewBuilder, new_null_array};
use arrow::array::{BooleanBufferBuilder, NullBufferBuilder};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float64Type, Int64Type};
use arrow::error::ArrowError;
use windrow_protocol::job::ValueType;
use windrow_wire::block::{Sparse, Values};

/// Rows of a block, in ascending order.
#[derive(Debug, Clone, Copy)]
pub enum Chosen<'a> {
    All,
    These(&'a [u32]),
}

impl Chosen<'_> {
    /// How many there are of a block's rows.
    pub fn count(self, rows: usize) -> usize {
        match self {
            Self::All => rows,
            Self::These(these) => these.len(),
        }
    }
}

/// Numbers of one type, with nulls.
#[derive(Debug)]
pub struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
}

impl<T: ArrowPrimitiveType> Default for Numbers<T> {
    fn default() -> Self {
        Self { values: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn push(&mut self, value: Option<T::Native>) {
        self.values.push(value.unwrap_or_default());
        self.nulls.append(value.is_some());
    }

    /// Appends values of rows that all have one.
    pub fn extend(&mut self, values: &[T::Native], chosen: Chosen<'_>) {
        match chosen {
            Chosen::All => self.values.extend_from_slice(values),
            Chosen::These(rows) => self.values.extend(rows.iter().map(|row| values[*row as usize])),
        }
        self.nulls.append_n_non_nulls(chosen.count(values.len()));
    }

    /// Appends the chosen of a block's `rows`.
    pub fn append<F: Copy>(
        &mut self,
        rows: usize,
        from: &Sparse<'_, F>,
        chosen: Chosen<'_>,
        convert: impl Fn(F) -> T::Native + Copy,
    ) {
        match (&from.presence, chosen) {
            (None, Chosen::All) => {
                self.values.extend(from.values.iter().map(|value| convert(*value)));
                self.nulls.append_n_non_nulls(rows);
            }
            (Some(bits), Chosen::All) => {
                let values = from.rows(rows).map(|value| value.map(convert).unwrap_or_default());
                self.values.extend(values);
                self.nulls.append_buffer(&presence(bits, rows));
            }
            (_, Chosen::These(these)) => each(rows, from, these, |value| self.push(value.map(convert))),
        }
    }

    pub fn append_nulls(&mut self, n: usize) {
        self.values.resize(self.values.len() + n, T::Native::default());
        self.nulls.append_n_nulls(n);
    }

    /// What was appended, as an array of a type with this representation.
    pub fn finish(&mut self, data_type: DataType) -> Result<ArrayRef, ArrowError> {
        // The next batch will be about as large.
        let next = Vec::with_capacity(self.values.len());
        let values = ScalarBuffer::from(std::mem::replace(&mut self.values, next));
        Ok(Arc::new(PrimitiveArray::<T>::try_new(values, self.nulls.finish())?.with_data_type(data_type)))
    }
}

/// Bits of a block are those of Arrow.
fn presence(bits: &[u8], rows: usize) -> NullBuffer {
    NullBuffer::new(BooleanBuffer::new(Buffer::from(bits), 0, rows))
}

/// Hands on the values of some rows.
pub fn each<F: Copy>(rows: usize, from: &Sparse<'_, F>, these: &[u32], mut take: impl FnMut(Option<F>)) {
    let mut wanted = these.iter().copied().peekable();
    for (row, value) in (0u32..).zip(from.rows(rows)) {
        if wanted.next_if_eq(&row).is_some() {
            take(value);
        }
    }
}

/// Strings: each block's dictionary is appended once, rows point into it.
#[derive(Debug, Default)]
pub struct Texts {
    entries: StringViewBuilder,
    index: Numbers<arrow::datatypes::UInt32Type>,
    bytes: usize,
}

impl Texts {
    /// Bytes of dictionaries so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn push(&mut self, text: Option<&str>) {
        let first = self.add(text.as_slice());
        self.index.push(text.map(|_| first));
    }

    /// Appends the chosen of a block's `rows`, which are indexes into its dictionary.
    pub fn append(&mut self, rows: usize, dictionary: &[&str], index: &Sparse<'_, u32>, chosen: Chosen<'_>) {
        let first = self.add(dictionary);
        self.index.append(rows, index, chosen, |entry| first + entry);
    }

    /// The same where all rows have one.
    pub fn extend(&mut self, dictionary: &[&str], index: &[u32], chosen: Chosen<'_>) {
        let first = self.add(dictionary);
        let count = chosen.count(index.len());
        match chosen {
            Chosen::All => self.index.values.extend(index.iter().map(|entry| first + entry)),
            Chosen::These(rows) => self.index.values.extend(rows.iter().map(|row| first + index[*row as usize])),
        }
        self.index.nulls.append_n_non_nulls(count);
    }

    /// The place of the first of some entries that are added.
    fn add(&mut self, dictionary: &[&str]) -> u32 {
        let first = self.entries.len() as u32;
        for entry in dictionary {
            self.entries.append_value(entry);
            self.bytes += entry.len() + size_of::<u128>();
        }
        first
    }

    pub fn append_nulls(&mut self, n: usize) {
        self.index.append_nulls(n);
    }

    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.bytes = 0;
        let index = self.index.finish(DataType::UInt32)?;
        let entries = self.entries.finish();
        if entries.is_empty() {
            return Ok(new_null_array(&DataType::Utf8View, index.len()));
        }
        arrow::compute::take(&entries, &index, None)
    }
}

/// A column of a declared type.
#[derive(Debug)]
pub enum Column {
    F64(Numbers<Float64Type>),
    I64(Numbers<Int64Type>),
    Bool { values: BooleanBufferBuilder, nulls: NullBufferBuilder },
    Text(Texts),
}

impl Column {
    pub fn new(kind: ValueType) -> Self {
        match kind {
            ValueType::F64 => Self::F64(Numbers::default()),
            ValueType::I64 => Self::I64(Numbers::default()),
            ValueType::Bool => Self::Bool { values: BooleanBufferBuilder::new(0), nulls: NullBufferBuilder::new(0) },
            ValueType::String => Self::Text(Texts::default()),
        }
    }

    /// Bytes of strings so far.
    pub fn text_bytes(&self) -> usize {
        if let Self::Text(texts) = self { texts.bytes() } else { 0 }
    }

    /// Appends the chosen rows of a block's column; null where a row has no value (or one of another type, which the
    /// caller has sorted out before).
    pub fn append(&mut self, rows: usize, from: Option<&Values<'_>>, chosen: Chosen<'_>) {
        match (self, from) {
            (Self::F64(to), Some(Values::F64(from))) => to.append(rows, from, chosen, |v| v),
            (Self::F64(to), Some(Values::I64(from))) => to.append(rows, from, chosen, |v| v as f64),
            (Self::I64(to), Some(Values::I64(from))) => to.append(rows, from, chosen, |v| v),
            (to @ Self::Bool { .. }, Some(Values::Bool(from))) => match chosen {
                Chosen::All => from.rows(rows).for_each(|value| to.push_bool(value)),
                Chosen::These(these) => each(rows, from, these, |value| to.push_bool(value)),
            },
            (Self::Text(to), Some(Values::Text { dictionary, index })) => to.append(rows, dictionary, index, chosen),
            (to, _) => to.append_nulls(chosen.count(rows)),
        }
    }

    pub fn push_bool(&mut self, value: Option<bool>) {
        if let Self::Bool { values, nulls } = self {
            values.append(value.unwrap_or_default());
            nulls.append(value.is_some());
        }
    }

    pub fn append_nulls(&mut self, n: usize) {
        match self {
            Self::F64(to) => to.append_nulls(n),
            Self::I64(to) => to.append_nulls(n),
            Self::Bool { values, nulls } => {
                values.append_n(n, false);
                nulls.append_n_nulls(n);
            }
            Self::Text(to) => to.append_nulls(n),
        }
    }

    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::F64(from) => from.finish(DataType::Float64),
            Self::I64(from) => from.finish(DataType::Int64),
            Self::Bool { values, nulls } => Ok(Arc::new(BooleanArray::new(values.finish(), nulls.finish()))),
            Self::Text(from) => from.finish(),
        }
    }
}
