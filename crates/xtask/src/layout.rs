//! The layout's invariants, from `cargo metadata` and the files: who may depend on whom, and how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Libraries that exactly one crate may know, so that they can be replaced.
const OWNED: [(&str, &str); 5] = [
    ("rdkafka", "windrow-kafka"),
    ("etcd-client", "windrow-etcd"),
    ("object_store", "windrow-storage"),
    ("datafusion", "windrow-processing"),
    ("redb", "windrow-embedded"),
];
/// The simulation fakes what others wrap.
const FAKES: &str = "windrow-sim";
const ROLES: [&str; 3] = ["windrow-gateway", "windrow-coordinator", "windrow-worker"];
const ADAPTERS: [&str; 3] = ["windrow-kafka", "windrow-etcd", "windrow-embedded"];
/// Names for crates that grow into everything.
const VAGUE: [&str; 4] = ["common", "core", "util", "types"];
const MAX_LINES: usize = 500;

/// A crate's direct dependencies that are compiled into it (not those of its tests).
type Crates = BTreeMap<String, BTreeSet<String>>;

/// Fails with every violation.
pub fn check() -> Result<()> {
    let metadata = MetadataCommand::new().no_deps().exec().context("cargo metadata")?;
    let crates: Crates = metadata
        .packages
        .iter()
        .map(|package| {
            let normal = package.dependencies.iter().filter(|dep| dep.kind != DependencyKind::Development);
            (package.name.to_string(), normal.map(|dep| dep.name.clone()).collect())
        })
        .collect();
    let mut wrong = dependencies(&crates);
    let root = metadata.workspace_root.into_std_path_buf();
    let mut files = Vec::new();
    for folder in ["crates", "tests"] {
        rust_files(&root.join(folder), &mut files)?;
    }
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        wrong.extend(file_text(file.strip_prefix(&root).unwrap_or(&file), &text));
    }
    if wrong.is_empty() { Ok(()) } else { bail!("the layout does not hold:\n  {}", wrong.join("\n  ")) }
}

fn dependencies(crates: &Crates) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, dependencies) in crates {
        if VAGUE.iter().any(|vague| name.trim_start_matches("windrow-") == *vague) {
            wrong.push(format!("{name} says nothing about what is in it: name it after what it is for"));
        }
        for (library, owner) in OWNED {
            if dependencies.contains(library) && name != owner && name != FAKES {
                wrong.push(format!("{name} depends on {library}: only {owner} may; go through its types"));
            }
        }
        if ROLES.contains(&name.as_str()) {
            let forbidden = ROLES.iter().chain(&ADAPTERS).filter(|other| dependencies.contains(**other));
            wrong.extend(forbidden.map(|other| {
                format!("{name} depends on {other}: a role knows ports, never another role or an adapter")
            }));
        }
        if name == "windrow-protocol" {
            let forbidden = dependencies.iter().filter(|dep| dep.starts_with("windrow-") || *dep == "tokio");
            wrong.extend(forbidden.map(|dep| format!("{name} depends on {dep}: it is pure and at the bottom")));
        }
    }
    wrong
}

fn file_text(file: &Path, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        wrong.push(format!("{} has {lines} lines: split it, {MAX_LINES} is the most", file.display()));
    }
    let is_root = file.parent().is_some_and(|dir| dir.ends_with("src"))
        && file.file_name().is_some_and(|name| name == "lib.rs" || name == "main.rs");
    if is_root && !text.starts_with("//!") {
        wrong.push(format!("{} does not begin with `//!`: say what the crate is for", file.display()));
    }
    wrong
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, dependencies: &[&str]) -> Crates {
        BTreeMap::from([(name.to_owned(), dependencies.iter().map(|dep| (*dep).to_owned()).collect())])
    }

    #[test]
    fn a_library_has_one_owner() {
        assert_eq!(dependencies(&with("windrow-kafka", &["rdkafka"])), Vec::<String>::new());
        let wrong = dependencies(&with("windrow", &["rdkafka"]));
        assert!(wrong[0].contains("windrow depends on rdkafka: only windrow-kafka may"), "{wrong:?}");
    }

    #[test]
    fn a_crate_is_named_after_what_it_is_for() {
        assert_eq!(dependencies(&with("windrow-util", &[])).len(), 1);
    }

    #[test]
    fn roles_know_neither_each_other_nor_adapters() {
        let wrong = dependencies(&with("windrow-worker", &["windrow-gateway", "windrow-etcd", "windrow-ports"]));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }

    #[test]
    fn long_files_and_crates_without_a_word_are_named() {
        let wrong = file_text(Path::new("crates/x/src/lib.rs"), &"x\n".repeat(501));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert_eq!(file_text(Path::new("crates/x/src/y.rs"), "x\n"), Vec::<String>::new());
    }

    #[test]
    fn this_workspace_holds_them() {
        check().unwrap();
    }
}
