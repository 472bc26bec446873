//! One JSON object per line. Members of nested objects are columns with dots: `values.speed`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::{Record, Records};
use crate::send::cell::Raw;

/// The longest line in bytes: what a request to the gateway may hold.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;
/// The most columns: beyond it the keys are data, not names.
const MAX_COLUMNS: usize = 10_000;

/// Lines with their numbers, without the empty ones.
fn lines(path: &Path) -> Result<impl Iterator<Item = Result<(u64, Vec<u8>)>> + Send + use<>> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut number = 0;
    Ok(std::iter::from_fn(move || {
        loop {
            number += 1;
            let mut line = Vec::new();
            match reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line) {
                Err(error) => return Some(Err(error.into())),
                Ok(0) => return None,
                Ok(n) if n as u64 > MAX_LINE_BYTES => {
                    return Some(Err(anyhow::anyhow!("line {number} is longer than {MAX_LINE_BYTES} bytes")));
                }
                Ok(_) => {}
            }
            let from = if number == 1 && line.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            let trimmed = line[from..].trim_ascii();
            if !trimmed.is_empty() {
                return Some(Ok((number, trimmed.to_vec())));
            }
        }
    }))
}

pub fn columns(path: &Path) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for line in lines(path)? {
        let (number, line) = line?;
        // A line that is none is found again when records are read, and told there.
        if let Ok(object) = serde_json::from_slice(&line) {
            collect(&object, "", &mut names);
        }
        ensure!(names.len() <= MAX_COLUMNS, "line {number}: more than {MAX_COLUMNS} different keys");
    }
    ensure!(!names.is_empty(), "no line is a JSON object");
    Ok(names.into_iter().collect())
}

fn collect(object: &Map<String, Value>, prefix: &str, names: &mut BTreeSet<String>) {
    for (key, value) in object {
        match value {
            Value::Object(inner) => collect(inner, &format!("{prefix}{key}."), names),
            _ => drop(names.insert(format!("{prefix}{key}"))),
        }
    }
}

pub fn records(path: &Path, columns: &[String]) -> Result<Records> {
    let columns = columns.to_vec();
    let lines = lines(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Box::new((1..).zip(lines).map(move |(row, line)| {
        let (number, line) = line?;
        let cells = match serde_json::from_slice::<Map<String, Value>>(&line) {
            Ok(object) => Ok(columns.iter().map(|column| cell(find(&object, column))).collect()),
            Err(error) => Err(format!("no JSON object: {error}")),
        };
        Ok(Record { row, line: Some(number), cells })
    })))
}

/// The member of this name, or of this path: keys may have dots themselves.
fn find<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| {
        name.match_indices('.').find_map(|(at, _)| match object.get(&name[..at]) {
            Some(Value::Object(inner)) => find(inner, &name[at + 1..]),
            _ => None,
        })
    })
}

fn cell(value: Option<&Value>) -> Raw {
    match value {
        None | Some(Value::Null) => Raw::Absent,
        Some(Value::Bool(value)) => Raw::Bool(*value),
        Some(Value::String(text)) => Raw::Text(text.clone()),
        Some(Value::Number(number)) if number.is_u64() && !number.is_i64() => Raw::Text(number.to_string()),
        Some(Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Raw::I64(value),
            (None, Some(value)) => Raw::F64(value),
            _ => Raw::Unfit("a number out of range"),
        },
        Some(Value::Array(_)) => Raw::Unfit("a list"),
        Some(Value::Object(_)) => Raw::Unfit("an object"),
    }
}
