//! Job files: reading them, checking them, storing them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use windrow_ports::meta::{Compare, MetaStore, Op, Txn};
use windrow_protocol::job::{Limits, Violation};
use windrow_protocol::state::{JobRecord, keys};
use windrow_protocol::{JobFile, Timestamp};

/// Reads a job file. An error names line and column.
pub fn read(text: &str) -> Result<JobFile> {
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))
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

/// `windrow validate`: checks files and says how each went.
pub async fn validate(files: &[PathBuf]) -> Result<()> {
    let mut wrong = 0;
    for path in files {
        match problems(path).await {
            Ok(problems) if problems.is_empty() => println!("pass     {}", path.display()),
            Ok(problems) => {
                wrong += 1;
                println!("fail     {}", path.display());
                problems.iter().for_each(|problem| println!("         {problem}"));
            }
            Err(error) => {
                wrong += 1;
                println!("fail     {}\n         {error:#}", path.display());
            }
        }
    }
    println!("skipped  topic checks: they need a cluster");
    if wrong > 0 { bail!("{wrong} of {} files are wrong", files.len()) } else { Ok(()) }
}

async fn problems(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let describe = |violation: Violation| {
        let at =
            violation.position.map(|(line, column)| format!(" (SQL line {line}, column {column})")).unwrap_or_default();
        format!("{}{at}: {} [{}]", violation.path, violation.message, violation.reason)
    };
    Ok(check(&read(&text)?).await.into_iter().map(describe).collect())
}

/// Stores a new job with its spec.
pub async fn create(meta: &dyn MetaStore, file: &JobFile, now: Timestamp) -> Result<()> {
    let record = JobRecord {
        name: file.metadata.name.clone(),
        labels: file.metadata.labels.clone(),
        spec: file.spec.clone(),
        generation: 1,
        paused: None,
        deleting: false,
        created_at: now,
        updated_at: now,
        request_id: String::new(),
    };
    let key = keys::job(&record.name);
    let then = vec![
        Op::put(key.clone(), serde_json::to_vec(&record)?),
        Op::put(keys::spec(&record.name, &record.spec.hash()), serde_json::to_vec(&record.spec)?),
    ];
    let outcome = meta.txn(Txn { when: vec![Compare::Absent(key)], then }).await?;
    if outcome.applied { Ok(()) } else { bail!("job {} exists already", record.name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONGESTION: &str = include_str!("../../../deploy/examples/congestion.yaml");

    #[tokio::test]
    async fn every_example_is_valid_and_named_as_its_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        let mut names = vec![];
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let file = read(&std::fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(check(&file).await, [], "{}", path.display());
            assert_eq!(path.file_stem().unwrap().to_str(), Some(file.metadata.name.as_str()));
            names.push(file.metadata.name.to_string());
        }
        names.sort();
        assert_eq!(names, ["air-quality", "congestion", "detectors", "metro", "trips"]);
    }

    #[test]
    fn an_unknown_field_is_refused_with_its_line() {
        let error = read(&CONGESTION.replace("lateness:", "latenes:")).unwrap_err().to_string();
        assert!(error.contains("latenes") && error.contains("line"), "{error}");
    }

    #[tokio::test]
    async fn an_unknown_column_is_refused_with_its_place_in_the_sql() {
        let violations = check(&read(&CONGESTION.replace("sum(speed)", "sum(sped)")).unwrap()).await;
        assert_eq!((violations[0].path.as_str(), violations[0].position.map(|p| p.0)), ("spec.map", Some(2)));
    }
}
