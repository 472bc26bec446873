//! Files and their records, whatever their format. Reads each file in one stream; decides nothing about columns.

mod csv;
mod ndjson;
mod parquet;
mod quotes;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::cell::Raw;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FileFormat {
    Csv,
    Ndjson,
    Parquet,
}

/// Bytes that are looked at to tell what a file is.
const HEAD_BYTES: u64 = 8 * 1024;

/// A file that can be read, more than once.
#[derive(Debug, Clone)]
pub struct Input {
    pub path: PathBuf,
    /// As the user wrote it.
    pub name: String,
    format: FileFormat,
    delimiter: u8,
}

/// One record: a row of CSV or Parquet, a line of NDJSON.
#[derive(Debug)]
pub struct Record {
    /// From 1, without the header.
    pub row: u64,
    /// From 1, where the format has lines.
    pub line: Option<u64>,
    /// The wanted cells in their order; or why there are none.
    pub cells: Result<Vec<Raw>, String>,
}

/// The records of one file. An error ends them: the file can't be read any further.
pub type Records = Box<dyn Iterator<Item = Result<Record>> + Send>;

impl Input {
    /// Looks at a file. The error says what it is instead.
    pub fn open(path: &Path, format: Option<FileFormat>, delimiter: Option<u8>) -> Result<Self> {
        let name = path.display().to_string();
        if name == "-" {
            bail!("standard input can't be sent: files are read twice, first to check all of it; save it in a file");
        }
        // Before it is opened: a pipe would wait for its writer.
        let meta = path.metadata().with_context(|| format!("cannot open {name}"))?;
        ensure!(!meta.is_dir(), "{name} is a directory; name its files, e.g. {name}/*.csv");
        ensure!(meta.is_file(), "{name} is no regular file: files are read twice, first to check all of it");
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let mut head = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut head).with_context(|| format!("cannot read {name}"))?;
        ensure!(!head.is_empty(), "{name} is empty: not even a header");
        let format = match format {
            Some(format) => format,
            None => {
                by_extension(path).with_context(|| format!("what is in {name}? add --format csv|ndjson|parquet"))?
            }
        };
        if let Some(problem) = problem(&head, format) {
            bail!("{name} {problem}");
        }
        let delimiter = delimiter.unwrap_or_else(|| csv::sniff(&head));
        Ok(Self { path: path.to_owned(), name, format, delimiter })
    }

    /// The names of the columns. For NDJSON every line is read: each may have others.
    pub fn columns(&self) -> Result<Vec<String>> {
        let columns = match self.format {
            FileFormat::Csv => csv::columns(&self.path, self.delimiter),
            FileFormat::Ndjson => ndjson::columns(&self.path),
            FileFormat::Parquet => parquet::columns(&self.path),
        };
        columns.with_context(|| format!("reading {}", self.name))
    }

    /// The records, with the cells of these columns; one that the file lacks is absent.
    pub fn records(&self, columns: &[String]) -> Result<Records> {
        let records = match self.format {
            FileFormat::Csv => csv::records(&self.path, self.delimiter, columns),
            FileFormat::Ndjson => ndjson::records(&self.path, columns),
            FileFormat::Parquet => parquet::records(&self.path, columns),
        };
        let name = self.name.clone();
        let records = records.with_context(|| format!("reading {name}"))?;
        Ok(Box::new(records.map(move |record| record.with_context(|| format!("reading {name}")))))
    }
}

fn by_extension(path: &Path) -> Option<FileFormat> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "csv" | "tsv" | "txt" => Some(FileFormat::Csv),
        "ndjson" | "jsonl" | "json" => Some(FileFormat::Ndjson),
        "parquet" | "pq" => Some(FileFormat::Parquet),
        _ => None,
    }
}

/// Why the file is not what it is taken for.
fn problem(head: &[u8], format: FileFormat) -> Option<&'static str> {
    let is_parquet = head.starts_with(b"PAR1");
    match format {
        FileFormat::Parquet => (!is_parquet).then_some("is no Parquet file: it does not begin with PAR1"),
        _ if is_parquet => Some("is a Parquet file: add --format parquet"),
        _ if head.starts_with(&[0x1f, 0x8b]) => Some("is compressed: gunzip it first"),
        _ if head.starts_with(b"PK\x03\x04") => Some("is a zip archive or a spreadsheet: save it as CSV first"),
        _ if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) => {
            Some("is UTF-16: convert it with iconv -f UTF-16 -t UTF-8")
        }
        _ if head.contains(&0) => Some("is binary, not text"),
        FileFormat::Ndjson if head.trim_ascii_start().starts_with(b"[") => {
            Some("is one JSON array, not an object per line: convert it with jq -c '.[]'")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
