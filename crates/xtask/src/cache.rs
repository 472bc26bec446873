//! Where fetched services, their data and the state of what runs lie: one folder outside the checkout.
//! Never touches the checkout or cargo's target directory.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The folder that everything of the test services lies in.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$WINDROW_CACHE`, else `$XDG_CACHE_HOME/windrow`, else `~/.cache/windrow`; created if it is missing.
    pub fn locate() -> Result<Self> {
        let Some(root) = cache_root(|name| env::var_os(name).map(PathBuf::from)) else {
            bail!("no place for the services: set WINDROW_CACHE (or HOME) to a folder outside the checkout");
        };
        Self::at(root)
    }

    /// A cache at a given absolute or relative folder.
    pub fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("creating the cache folder {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("resolving {}", root.display()))?;
        Ok(Self { root })
    }

    /// Where a service of this version is installed. The folder exists only once it is complete.
    pub fn install_dir(&self, name: &str, version: &str) -> PathBuf {
        self.root.join(format!("{name}-{version}"))
    }

    /// Where a running service keeps its data, settings and log.
    pub fn run_dir(&self, name: &str) -> PathBuf {
        self.root.join("run").join(name)
    }

    /// The file that says what runs.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("run").join("state.json")
    }

    /// A lock file. Locks end with the process that holds them, so none is left behind by a crash.
    pub fn lock_file(&self, name: &str) -> Result<File> {
        let dir = self.root.join("locks");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join(name);
        File::create(&path).with_context(|| format!("opening {}", path.display()))
    }
}

fn cache_root(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|path| path != Path::new(""));
    set("WINDROW_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("windrow")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/windrow")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(set: &[(&str, &str)]) -> Option<PathBuf> {
        cache_root(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
    }

    #[test]
    fn the_own_variable_wins_over_the_users_cache_and_the_home() {
        let all = [("WINDROW_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(root_with(&all), Some(PathBuf::from("/a")));
        assert_eq!(root_with(&all[1..]), Some(PathBuf::from("/b/windrow")));
        assert_eq!(root_with(&all[2..]), Some(PathBuf::from("/c/.cache/windrow")));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        assert_eq!(root_with(&[("WINDROW_CACHE", ""), ("HOME", "/c")]), Some(PathBuf::from("/c/.cache/windrow")));
        assert_eq!(root_with(&[]), None);
    }
}
