//! Job files as people write them: YAML or JSON, one or several documents, from files, folders or stdin. Keeps where each
//! field stands, so that a mistake is shown at its line and column in the file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use serde_saphyr::{Location, Spanned};
use windrow_protocol::JobFile;
use windrow_protocol::job::{Limits, Violation};

/// Largest job file.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// 1-based line and column.
type Position = (u32, u32);

/// A file's text.
pub struct Source {
    /// Its path; `<stdin>` for `-`.
    pub name: String,
    pub text: String,
}

/// One document of a file.
pub struct Document {
    pub file: String,
    lines: Vec<String>,
    value: Value,
    start: Position,
    /// By path: where the key stands, and where the value begins.
    places: BTreeMap<String, (Position, Position)>,
}

/// Something that is wrong, with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub position: Option<Position>,
    pub violation: Box<Violation>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        let Violation { path, reason, message, .. } = &*self.violation;
        let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
        write!(f, ": {path}{message} [{reason}]")
    }
}

impl Problem {
    pub fn value(&self) -> Value {
        let (line, column) = self.position.unzip();
        let Violation { path, reason, message, .. } = &*self.violation;
        json!({"path": path, "reason": reason, "message": message, "line": line, "column": column})
    }
}

/// Reads what `-f` names: files, the YAML and JSON files of folders, `-` for stdin. Fails if that is nothing.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let text = limited(std::io::stdin().lock()).context("stdin")?;
            sources.push(Source { name: "<stdin>".to_owned(), text });
        } else if path.is_dir() {
            for file in in_folder(path)? {
                sources.push(open(&file)?);
            }
        } else {
            sources.push(open(path)?);
        }
    }
    ensure!(!sources.is_empty(), "no job files: nothing that ends in .yaml, .yml or .json is there");
    Ok(sources)
}

fn in_folder(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot read {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let known = path.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
        if known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn open(path: &Path) -> Result<Source> {
    let read = || limited(std::fs::File::open(path)?);
    let text = read().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Source { name: path.display().to_string(), text })
}

fn limited(from: impl Read) -> Result<String> {
    let mut text = String::new();
    from.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    ensure!(text.len() as u64 <= MAX_BYTES, "it is larger than {} MiB, which no job file is", MAX_BYTES >> 20);
    Ok(text)
}

impl Source {
    /// The documents of the file; what is no YAML is a problem.
    pub fn documents(&self) -> Result<Vec<Document>, Problem> {
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        let malformed = |position, message: String| Problem {
            file: self.name.clone(),
            position,
            violation: Box::new(Violation::new("", "MALFORMED_YAML", message)),
        };
        let roots: Vec<Spanned<Node>> = serde_saphyr::from_multiple_with_options(&self.text, options)
            .map_err(|error| malformed(error.location().map(position), error.to_string()))?;
        if roots.is_empty() {
            return Err(malformed(None, "the file holds no job: it is empty".to_owned()));
        }
        let lines: Vec<String> = self.text.lines().map(str::to_owned).collect();
        let document = |root: Spanned<Node>| {
            let (start, mut places) = (position(root.referenced), BTreeMap::new());
            let value = flatten(root.value, "", &mut places);
            Document { file: self.name.clone(), lines: lines.clone(), value, start, places }
        };
        Ok(roots.into_iter().map(document).collect())
    }
}

impl Document {
    /// The document as a job file, if it has the structure of one.
    pub fn job(&self) -> Result<JobFile, Problem> {
        windrow_wire::job_file::read(self.value.clone()).map_err(|violation| self.problem(violation))
    }

    /// The name that the document gives the job, also when it is not a good one.
    pub fn name(&self) -> Option<&str> {
        self.value["metadata"]["name"].as_str()
    }

    /// Where the document begins.
    pub fn line(&self) -> u32 {
        self.start.0
    }

    /// A violation at its place: the field's, or that of the innermost field around it which is there.
    pub fn problem(&self, violation: Violation) -> Problem {
        let mut path = violation.path.as_str();
        let position = loop {
            if let Some((key, value)) = self.places.get(path) {
                let exact = path == violation.path;
                break match violation.position {
                    Some(within) if exact => self.within(*value, within),
                    _ if exact && violation.reason != "UNKNOWN_FIELD" => *value,
                    _ => *key,
                };
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => break self.start,
            }
        };
        Problem { file: self.file.clone(), position: Some(position), violation: Box::new(violation) }
    }

    /// From a place in a text to one in the file: exact for literal blocks and texts on one line, which is how SQL is
    /// written; the text's beginning for the others.
    fn within(&self, start: Position, (line, column): Position) -> Position {
        if let Some(header) = self.literal_block(start) {
            return (header + line, start.1 - 1 + column);
        }
        let text = self.line_of(start.0).chars().nth(start.1 as usize - 1);
        match text {
            _ if line > 1 => start,
            Some('"' | '\'') => (start.0, start.1 + column),
            _ => (start.0, start.1 + column - 1),
        }
    }

    fn line_of(&self, line: u32) -> &str {
        self.lines.get(line as usize - 1).map_or("", String::as_str)
    }

    /// The line of the `|` of a literal block whose text begins here.
    fn literal_block(&self, start: Position) -> Option<u32> {
        let before = self.line_of(start.0).chars().take(start.1 as usize - 1);
        if !before.into_iter().all(|c| c == ' ') {
            return None;
        }
        let header = (1..start.0).rev().find(|line| !self.line_of(*line).trim().is_empty())?;
        let text = self.line_of(header);
        let text = text.split_once(" #").map_or(text, |(text, _)| text).trim_end();
        text.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '+').ends_with('|').then_some(header)
    }
}

/// Where the jobs of several files stand.
#[derive(Debug, Default)]
pub struct Places(BTreeMap<String, String>);

impl Places {
    /// Notes a document's job; a problem if one of its name was noted before.
    pub fn second(&mut self, document: &Document) -> Option<Problem> {
        let name = document.name()?;
        let place = format!("{}:{}", document.file, document.line());
        let before = self.0.insert(name.to_owned(), place)?;
        let message = format!("job {name} is in {before} already");
        Some(document.problem(Violation::new("metadata.name", "DUPLICATE_JOB", message)))
    }
}

/// Everything that is wrong with a job and can be seen without a cluster.
pub async fn check(file: &JobFile) -> Vec<Violation> {
    let mut violations = file.check(Limits::default());
    // SQL is planned over the declared columns; with those wrong its errors would mislead.
    if violations.is_empty() {
        violations = windrow_processing::validate(&file.spec).await;
    }
    violations
}

/// The one job of a text that is part of the program.
pub fn built_in(text: &str) -> Result<JobFile> {
    let source = Source { name: "built-in job".to_owned(), text: text.to_owned() };
    match source.documents().map_err(|problem| anyhow::anyhow!("{problem}"))?.as_slice() {
        [document] => document.job().map_err(|problem| anyhow::anyhow!("{problem}")),
        documents => bail!("expected one job, found {}", documents.len()),
    }
}

/// YAML of any shape, with places.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
}

fn position(at: Location) -> Position {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    (number(at.line()), number(at.column()))
}

/// The value without its places, which go to `places` by path.
fn flatten(node: Node, path: &str, places: &mut BTreeMap<String, (Position, Position)>) -> Value {
    match node {
        Node::Scalar(value) => value,
        Node::List(items) => {
            let mut list = Vec::with_capacity(items.len());
            for (i, item) in items.into_iter().enumerate() {
                let (path, at) = (format!("{path}[{i}]"), position(item.referenced));
                list.push(flatten(item.value, &path, places));
                places.insert(path, (at, at));
            }
            Value::Array(list)
        }
        Node::Map(entries) => {
            let mut map = serde_json::Map::new();
            for (key, item) in entries {
                let path = if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                map.insert(key.value, flatten(item.value, &path, places));
                places.insert(path, (position(key.referenced), position(item.referenced)));
            }
            Value::Object(map)
        }
    }
}

#[cfg(test)]
mod tests;
