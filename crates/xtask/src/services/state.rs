//! The file that says which services run. Written under a lock, read by anyone; it may be behind the truth (a machine
//! that lost power), so every entry is checked against the process before it counts.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::process::is_running;

/// One started service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    pub pid: u32,
    /// What its command line holds, to tell it from a stranger with a reused pid.
    pub mark: String,
    pub ports: Vec<u16>,
}

/// Everything that was started and not stopped.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Somebody asked for the services to stay up; a test run then leaves them.
    pub stay: bool,
    pub services: BTreeMap<String, Running>,
}

impl State {
    /// What runs now. Entries of processes that are gone are left out.
    pub fn read(cache: &Cache) -> Result<Self> {
        let path = cache.state_file();
        let mut state: State = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("reading {} (if it is damaged, delete it)", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        state.services.retain(|_, running| is_running(running.pid, &running.mark));
        if state.services.is_empty() {
            state.stay = false;
        }
        Ok(state)
    }

    /// Changes the file, one process and thread at a time; a reader sees the old one or the new one, never half.
    pub fn update(cache: &Cache, change: impl FnOnce(&mut State)) -> Result<()> {
        let lock = cache.lock_file("state")?;
        lock.lock().context("locking the state file")?;
        let mut state = Self::read(cache)?;
        change(&mut state);
        let path = cache.state_file();
        let new = path.with_extension("new");
        fs::create_dir_all(cache.run_dir("")).context("creating the run folder")?;
        fs::write(&new, serde_json::to_vec_pretty(&state)?).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("replacing {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_process_stays_in_the_state_and_a_dead_one_leaves_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_path_buf()).unwrap();
        assert_eq!(State::read(&cache).unwrap(), State::default());

        // This process is alive, and its command line holds the name of its program.
        let program = std::env::args().next().unwrap();
        let mine = Running { pid: std::process::id(), mark: program, ports: vec![1, 2] };
        let stranger = Running { mark: "another program".to_owned(), ..mine.clone() };
        State::update(&cache, |state| {
            state.stay = true;
            state.services.insert("mine".to_owned(), mine.clone());
            state.services.insert("stranger".to_owned(), stranger);
        })
        .unwrap();

        let state = State::read(&cache).unwrap();
        assert!(state.stay);
        assert_eq!(state.services.into_iter().collect::<Vec<_>>(), [("mine".to_owned(), mine)]);
    }

    #[test]
    fn the_wish_to_stay_ends_with_the_last_service() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_path_buf()).unwrap();
        State::update(&cache, |state| state.stay = true).unwrap();
        assert!(!State::read(&cache).unwrap().stay);
    }
}
