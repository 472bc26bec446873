//! One cell of a file: what it holds, and the one type that a column has over all files.
//!
//! A column never changes its type between two rows: the job declares one, and readings of another are quarantined.

use windrow_wire::v1::field::Value;

/// A cell as its format has it. Text formats have text only; what it means is decided per column.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    Absent,
    Text(String),
    I64(i64),
    F64(f64),
    Bool(bool),
    /// A moment in microseconds since the epoch.
    Instant(i64),
    /// A local time, as the microseconds since the epoch that it would be in UTC.
    Local(i64),
    /// What no reading can hold: a list, bytes, text that is not UTF-8. With the word for it.
    Unfit(&'static str),
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    F64,
    I64,
    Bool,
    String,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::Bool => "bool",
            Self::String => "string",
        }
    }
}

/// How text is read as values.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    /// `2,6` is a number and `2.6` is none.
    pub decimal_comma: bool,
    /// Texts that mean that there is no value, beside the empty one and NaN. One that is a number stands for that number.
    pub missing: Vec<String>,
}

/// What a cell looks like on its own.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Absent,
    I64(i64),
    /// An integer that no i64 holds: an id of 20 digits, say. As an f64 it would be equal to its neighbours.
    Big(f64),
    F64(f64),
    Bool(bool),
    Text(String),
}

impl Reader {
    /// What a cell looks like; the word for it if no reading can hold it.
    pub fn read(&self, raw: &Raw) -> Result<Cell, &'static str> {
        let cell = match raw {
            Raw::Absent => Cell::Absent,
            Raw::Text(text) => self.text(text.trim()),
            Raw::I64(value) => Cell::I64(*value),
            // The gateway refuses what is no number; in files it stands for "no value".
            Raw::F64(value) if !value.is_finite() => Cell::Absent,
            Raw::F64(value) => Cell::F64(*value),
            Raw::Bool(value) => Cell::Bool(*value),
            Raw::Instant(us) => Cell::Text(moment(*us).to_string()),
            Raw::Local(us) => Cell::Text(moment(*us).to_zoned(jiff::tz::TimeZone::UTC).datetime().to_string()),
            Raw::Unfit(what) => return Err(what),
        };
        Ok(if self.means_missing(&cell) { Cell::Absent } else { cell })
    }

    fn text(&self, text: &str) -> Cell {
        if text.is_empty() || text.eq_ignore_ascii_case("nan") || self.missing.iter().any(|marker| marker == text) {
            Cell::Absent
        } else if let Some(number) = self.number(text) {
            number
        } else if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") {
            Cell::Bool(text.eq_ignore_ascii_case("true"))
        } else {
            Cell::Text(text.to_owned())
        }
    }

    /// Digits with sign, point and exponent: neither `inf` nor `0x10` nor `1_000`.
    fn number(&self, text: &str) -> Option<Cell> {
        if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | ',')) {
            return None;
        }
        if let Ok(value) = text.parse() {
            return Some(Cell::I64(value));
        }
        let is_integer = text.trim_start_matches(['-', '+']).bytes().all(|byte| byte.is_ascii_digit());
        let parsed = if !self.decimal_comma {
            text.parse()
        } else if text.contains('.') {
            return None;
        } else {
            text.replace(',', ".").parse()
        };
        let cell = if is_integer { Cell::Big } else { Cell::F64 };
        parsed.ok().filter(|value: &f64| value.is_finite()).map(cell)
    }

    fn means_missing(&self, cell: &Cell) -> bool {
        let value = match cell {
            Cell::I64(value) => *value as f64,
            Cell::F64(value) | Cell::Big(value) => *value,
            _ => return false,
        };
        let same = |marker: &String| match self.number(marker).or_else(|| Self::default().number(marker)) {
            Some(Cell::I64(marker)) => marker as f64 == value,
            Some(Cell::F64(marker) | Cell::Big(marker)) => marker == value,
            _ => false,
        };
        self.missing.iter().any(same)
    }
}

fn moment(us: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(us).unwrap_or(if us < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX })
}

impl Raw {
    /// As text: of device and tag columns, and of the columns whose type is string.
    pub fn text(&self) -> Result<Option<String>, &'static str> {
        Ok(match self {
            Self::Text(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
            Self::Absent => None,
            Self::I64(value) => Some(value.to_string()),
            Self::F64(value) => Some(value.to_string()),
            Self::Bool(value) => Some(value.to_string()),
            Self::Instant(_) | Self::Local(_) => match Reader::default().read(self)? {
                Cell::Text(text) => Some(text),
                _ => None,
            },
            Self::Unfit(what) => return Err(what),
        })
    }
}

/// What a column has held so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    ints: u64,
    bigs: u64,
    floats: u64,
    bools: u64,
    texts: u64,
    pub absent: u64,
    /// The first text, with its place: what made a column of numbers one of text.
    pub first_text: Option<(String, String)>,
}

impl Seen {
    pub fn note(&mut self, cell: &Cell, place: impl FnOnce() -> String) {
        match cell {
            Cell::Absent => self.absent += 1,
            Cell::I64(_) => self.ints += 1,
            Cell::Big(_) => self.bigs += 1,
            Cell::F64(_) => self.floats += 1,
            Cell::Bool(_) => self.bools += 1,
            Cell::Text(text) => {
                self.texts += 1;
                self.first_text.get_or_insert_with(|| (place(), text.clone()));
            }
        }
    }

    pub fn plus(&mut self, other: Self) {
        self.ints += other.ints;
        self.bigs += other.bigs;
        self.floats += other.floats;
        self.bools += other.bools;
        self.texts += other.texts;
        self.absent += other.absent;
        self.first_text = self.first_text.take().or(other.first_text);
    }

    /// The narrowest type that holds everything; none for a column without any value.
    pub fn kind(&self) -> Option<Kind> {
        match (self.texts, self.bools, self.floats, self.ints + self.bigs) {
            (0, 0, 0, 0) => None,
            (0, 0, 0, _) if self.bigs == 0 => Some(Kind::I64),
            (0, 0, 1.., _) => Some(Kind::F64),
            (0, _, 0, 0) => Some(Kind::Bool),
            _ => Some(Kind::String),
        }
    }

    /// Whether a few texts made text of a column that is mostly numbers.
    pub fn is_spoiled(&self) -> bool {
        self.kind() == Some(Kind::String) && self.ints + self.floats > self.texts
    }
}

/// A cell as a value of its column's type; none if it does not fit.
pub fn value(kind: Kind, cell: Cell, raw: &Raw) -> Option<Value> {
    match (kind, cell) {
        (Kind::F64, Cell::F64(value) | Cell::Big(value)) => Some(Value::F64(value)),
        (Kind::F64, Cell::I64(value)) => Some(Value::F64(value as f64)),
        (Kind::I64, Cell::I64(value)) => Some(Value::I64(value)),
        // 5.0 where others have 5: exactly the same number.
        (Kind::I64, Cell::F64(value)) if value.fract() == 0.0 && value.abs() < 9.0e15 => Some(Value::I64(value as i64)),
        (Kind::Bool, Cell::Bool(value)) => Some(Value::Flag(value)),
        (Kind::String, _) => raw.text().ok().flatten().map(Value::Text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(reader: &Reader, cells: &[&str]) -> Option<Kind> {
        let mut seen = Seen::default();
        cells.iter().for_each(|cell| seen.note(&reader.text(cell), String::new));
        seen.kind()
    }

    #[test]
    fn a_column_has_the_narrowest_type_that_holds_all_of_it() {
        let reader = Reader::default();
        assert_eq!(seen(&reader, &["1", "", "-2", "+3"]), Some(Kind::I64));
        assert_eq!(seen(&reader, &["1", "2.5", "1e3", "NaN"]), Some(Kind::F64));
        assert_eq!(seen(&reader, &["true", "FALSE"]), Some(Kind::Bool));
        for strings in [["1", "x"], ["true", "1"], ["inf", "1"], ["0x10", "2"], ["1_000", "2"], ["1,5", "2"]] {
            assert_eq!(seen(&reader, &strings), Some(Kind::String), "{strings:?}");
        }
        assert_eq!(seen(&reader, &["", "nan"]), None);
        assert_eq!(seen(&reader, &["99999999999999999999", "1.5"]), Some(Kind::F64));
    }

    #[test]
    fn integers_that_no_i64_holds_stay_what_they_are() {
        let reader = Reader::default();
        assert_eq!(seen(&reader, &["1", "99999999999999999999"]), Some(Kind::String));
        let id = Raw::Text("99999999999999999998".to_owned());
        let cell = reader.read(&id).unwrap();
        assert_eq!(value(Kind::String, cell, &id), Some(Value::Text("99999999999999999998".to_owned())));
    }

    #[test]
    fn a_missing_marker_that_is_a_number_means_the_number_however_it_is_written() {
        let reader = Reader { decimal_comma: true, missing: vec!["-200".to_owned(), "NA".to_owned()] };
        for absent in ["-200", "-200,0", "-200,00", "NA", ""] {
            assert_eq!(reader.read(&Raw::Text(absent.to_owned())), Ok(Cell::Absent), "{absent:?}");
        }
        assert_eq!(reader.read(&Raw::Text(" 2,6 ".to_owned())), Ok(Cell::F64(2.6)));
        assert_eq!(reader.read(&Raw::I64(-200)), Ok(Cell::Absent));
        assert_eq!(reader.read(&Raw::Text("18.00".to_owned())), Ok(Cell::Text("18.00".to_owned())));
    }

    #[test]
    fn a_value_has_its_columns_type_or_is_none() {
        let of = |kind, text: &str| {
            let raw = Raw::Text(text.to_owned());
            value(kind, Reader::default().read(&raw).unwrap(), &raw)
        };
        assert_eq!(of(Kind::F64, "73"), Some(Value::F64(73.0)));
        assert_eq!(of(Kind::I64, "73.0"), Some(Value::I64(73)));
        assert_eq!(of(Kind::I64, "73.5"), None);
        assert_eq!(of(Kind::String, "0073"), Some(Value::Text("0073".to_owned())));
        assert_eq!(of(Kind::Bool, "yes"), None);
    }
}
