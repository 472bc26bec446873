//! CSV with a header line.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use csv::{ByteRecord, ReaderBuilder};

use super::quotes::{OpenQuote, Quotes};
use super::{Record, Records};
use crate::send::cell::Raw;

/// The delimiter that the first line has most of.
pub fn sniff(head: &[u8]) -> u8 {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| {
        let mut quoted = false;
        let outside = line.iter().filter(|byte| {
            quoted ^= **byte == b'"';
            !quoted && **byte == delimiter
        });
        outside.count()
    };
    // The last of the largest: a comma wins a tie.
    [b'|', b'\t', b';', b','].into_iter().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

type Reader = csv::Reader<Quotes<std::fs::File>>;

fn reader(path: &Path, delimiter: u8) -> Result<(Reader, OpenQuote)> {
    let (quotes, open) = Quotes::new(std::fs::File::open(path)?, delimiter);
    // Flexible: a row of another length is for us to judge, and the next one may be good.
    Ok((ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(quotes), open))
}

fn header(reader: &mut Reader) -> Result<Vec<String>> {
    let header = reader.byte_headers()?;
    let names: Vec<String> = header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
    for (i, name) in names.iter().enumerate() {
        ensure!(name.is_empty() || !names[..i].contains(name), "the header has the column {name:?} twice");
    }
    Ok(names)
}

pub fn columns(path: &Path, delimiter: u8) -> Result<Vec<String>> {
    let (mut reader, _) = reader(path, delimiter)?;
    Ok(header(&mut reader)?.into_iter().filter(|name| !name.is_empty()).collect())
}

pub fn records(path: &Path, delimiter: u8, columns: &[String]) -> Result<Records> {
    let (mut reader, open) = reader(path, delimiter)?;
    let header = header(&mut reader)?;
    let wanted: Vec<Option<usize>> =
        columns.iter().map(|column| header.iter().position(|name| name == column)).collect();
    let (mut record, mut row) = (ByteRecord::new(), 0);
    Ok(Box::new(std::iter::from_fn(move || match reader.read_byte_record(&mut record) {
        Err(error) => Some(Err(error.into())),
        // Everything behind the quote is within the last row: no row that could be left out, but the rest of the file.
        Ok(_) if reader.is_done() && open.line().is_some() => open.take().map(|line| {
            Err(anyhow!("line {line}: a quote is opened that nothing closes: all that follows would be one cell"))
        }),
        Ok(false) => None,
        Ok(true) => {
            row += 1;
            let line = record.position().map(csv::Position::line);
            Some(Ok(Record { row, line, cells: cells(&record, header.len(), &wanted) }))
        }
    })))
}

fn cells(record: &ByteRecord, expected: usize, wanted: &[Option<usize>]) -> Result<Vec<Raw>, String> {
    // A comma at the end of each line is common and harmless.
    let has_more = record.iter().skip(expected).any(|cell| !cell.trim_ascii().is_empty());
    if record.len() < expected || has_more {
        return Err(format!("the row has {} cells, the header has {expected}", record.len()));
    }
    let cell = |index: &Option<usize>| match index.and_then(|index| record.get(index)) {
        None | Some(b"") => Raw::Absent,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Raw::Text(text.to_owned()),
            Err(_) => Raw::Unfit("text that is not UTF-8"),
        },
    };
    Ok(wanted.iter().map(cell).collect())
}
