//! Files of running attempts, on a disk of the worker's own. They need not outlive anybody, and nobody's are left behind.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A process's folder under a scratch folder that it may share with others. Removed with this.
///
/// Beside it lies a file that is locked as long as the process lives: what processes have left that were killed is removed
/// by the next one that starts there. Anything else in the scratch folder is left alone.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    lock: PathBuf,
    /// The operating system lets go of it with the process.
    _locked: File,
}

/// How the files are called whose locks say that a process lives.
const LOCK: &str = "lock";

impl Scratch {
    /// Makes a folder of this process's own. Fails if the disk does.
    pub fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        remove_those_of_the_dead(root)?;
        let folder = root.join(format!("process-{}", uuid::Uuid::now_v7()));
        let lock = folder.with_extension(LOCK);
        let locked = File::create_new(&lock)?;
        locked.lock()?;
        fs::create_dir(&folder)?;
        Ok(Self { folder, lock, _locked: locked })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder);
        // What stays is removed by the next process.
        let _ = fs::remove_file(&self.lock);
    }
}

fn remove_those_of_the_dead(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let lock = entry?.path();
        let is_lock = lock.extension().is_some_and(|ending| ending == LOCK)
            && lock.file_name().is_some_and(|name| name.to_string_lossy().starts_with("process-"));
        // One that another process removes meanwhile is no concern of ours.
        let Some(file) = is_lock.then(|| File::open(&lock).ok()).flatten() else { continue };
        match file.try_lock() {
            Ok(()) => {
                remove(&lock.with_extension(""));
                let _ = fs::remove_file(&lock);
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "scratch folder could not be removed");
        }
        _ => {}
    }
}

/// An attempt's folder: made with its first file, and removed when nobody works in it any more.
#[derive(Debug, Clone)]
pub struct AttemptFolder(Arc<Removed>);

#[derive(Debug)]
struct Removed(PathBuf);

impl AttemptFolder {
    pub fn new(folder: PathBuf) -> Self {
        Self(Arc::new(Removed(folder)))
    }

    pub fn folder(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for Removed {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_when_the_next_one_starts_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let dead = root.path().join("process-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("part-0.parquet"), "x").unwrap();
        fs::write(dead.with_extension(LOCK), "").unwrap();
        fs::create_dir(root.path().join("of-somebody-else")).unwrap();
        let first = Scratch::open(root.path()).unwrap();
        fs::write(first.folder().join("part-0.parquet"), "x").unwrap();
        let second = Scratch::open(root.path()).unwrap();
        assert!(!dead.exists() && !dead.with_extension(LOCK).exists());
        assert!(first.folder().join("part-0.parquet").exists(), "its process lives");
        drop((first, second));
        let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["of-somebody-else"]);
    }

    #[test]
    fn an_attempts_folder_stays_while_somebody_works_in_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = AttemptFolder::new(root.path().join("attempt"));
        let (working, path) = (folder.clone(), folder.folder().to_owned());
        drop(folder);
        fs::create_dir(&path).unwrap();
        drop(working);
        assert!(!path.exists());
    }
}
