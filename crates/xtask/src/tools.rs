//! Programs that have to be on the machine, and what to install when one is missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The first Go that can fetch a newer Go by itself. The services' modules name the one that they need (1.26).
const GO_MINIMUM: (u32, u32) = (1, 21);
/// Kafka 4 brokers need Java 17.
const JAVA_MINIMUM: u32 = 17;

/// A program that a service or the build needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Java,
    Maven,
    Go,
    Cc,
}

impl Tool {
    fn program(self) -> &'static str {
        match self {
            Tool::Java => "java",
            Tool::Maven => "mvn",
            Tool::Go => "go",
            Tool::Cc => "cc",
        }
    }

    fn debian_package(self) -> &'static str {
        match self {
            Tool::Java => "openjdk-17-jre-headless",
            Tool::Maven => "maven",
            Tool::Go => "golang",
            Tool::Cc => "build-essential",
        }
    }

    fn wanted_for(self) -> &'static str {
        match self {
            Tool::Java => "runs the Kafka broker",
            Tool::Maven => "fetches the Kafka broker",
            Tool::Go => "builds etcd and MinIO",
            Tool::Cc => "builds librdkafka and zstd",
        }
    }
}

/// Fails with one message that names everything that is missing and the command that installs it.
pub fn require(tools: &[Tool]) -> Result<()> {
    let mut wanted = tools.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    let path = env::var_os("PATH").unwrap_or_default();
    let (present, missing): (Vec<Tool>, Vec<Tool>) =
        wanted.into_iter().partition(|tool| find_in(env::split_paths(&path), tool.program()).is_some());
    if !missing.is_empty() {
        bail!("{}", missing_message(&missing));
    }
    present.into_iter().try_for_each(check_version)
}

fn missing_message(missing: &[Tool]) -> String {
    let lines: Vec<String> =
        missing.iter().map(|tool| format!("  {}: {}, not found in PATH", tool.program(), tool.wanted_for())).collect();
    let packages: Vec<&str> = missing.iter().map(|tool| tool.debian_package()).collect();
    format!("missing on this machine:\n{}\non Debian: apt-get install {}", lines.join("\n"), packages.join(" "))
}

fn find_in(mut dirs: impl Iterator<Item = PathBuf>, program: &str) -> Option<PathBuf> {
    dirs.find_map(|dir| Some(dir.join(program)).filter(|file| Path::is_file(file)))
}

fn check_version(tool: Tool) -> Result<()> {
    match tool {
        Tool::Go => {
            let said = first_output("go", &["version"])?;
            if go_version(&said).is_some_and(|version| version < GO_MINIMUM) {
                bail!(
                    "{said} is too old: etcd and MinIO need Go 1.26 (any Go from 1.21 on fetches it by itself); \
                     see https://go.dev/dl, or on Debian golang from backports"
                );
            }
        }
        Tool::Java => {
            let said = first_output("java", &["-version"])?;
            if java_major(&said).is_some_and(|major| major < JAVA_MINIMUM) {
                bail!("{said} is too old: Kafka needs Java 17; on Debian: apt-get install openjdk-17-jre-headless");
            }
        }
        Tool::Maven | Tool::Cc => {}
    }
    Ok(())
}

/// What a program says first, wherever it says it (java: on stderr).
fn first_output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("starting {program}"))?;
    let all = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&all).lines().next().unwrap_or_default().to_owned())
}

/// `go version go1.26.8 linux/amd64` gives (1, 26).
fn go_version(said: &str) -> Option<(u32, u32)> {
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    let minor = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((1, minor.parse().ok()?))
}

/// `openjdk version "17.0.15" 2025-04-15` gives 17, `java version "1.8.0_392"` gives 1 (which is as old).
fn java_major(said: &str) -> Option<u32> {
    let quoted = said.split('"').nth(1)?;
    quoted.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_purpose_and_its_package() {
        let message = missing_message(&[Tool::Java, Tool::Maven]);
        assert!(message.contains("java: runs the Kafka broker"), "{message}");
        assert!(message.contains("apt-get install openjdk-17-jre-headless maven"), "{message}");
    }

    #[test]
    fn a_program_is_found_only_where_it_lies() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("there"), "").unwrap();
        let dirs = || [dir.path().to_path_buf()].into_iter();
        assert_eq!(find_in(dirs(), "there"), Some(dir.path().join("there")));
        assert_eq!(find_in(dirs(), "absent"), None);
    }

    #[test]
    fn versions_are_read_from_what_the_tools_say() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(go_version("go version go1.19 linux/amd64"), Some((1, 19)));
        assert_eq!(java_major(r#"openjdk version "17.0.15" 2025-04-15"#), Some(17));
        assert_eq!(java_major(r#"java version "1.8.0_392""#), Some(1));
        assert_eq!(java_major("nonsense"), None);
    }
}
