//! The log and the metadata store of `windrow dev`: durable, in one database file, in one process.
//!
//! Both pass the same conformance suites as Kafka and etcd do, so that what works here works there. The file is locked:
//! a second process is told so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod log;
pub mod meta;

pub use log::EmbeddedLog;
pub use meta::EmbeddedMeta;

/// Why the database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the file.
    #[error("{} is in use by another process; stop it or choose another data directory", .0.display())]
    InUse(PathBuf),
    /// The folder or file can't be made or read, or its content is damaged.
    #[error("cannot open {}: {cause}", .path.display())]
    Unusable { path: PathBuf, cause: String },
}

/// One open database file.
#[derive(Debug, Clone)]
pub struct Database {
    log: Arc<EmbeddedLog>,
    meta: Arc<EmbeddedMeta>,
}

impl Database {
    /// Opens the file, and makes it (and its folder) if there is none.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let unusable = |cause: String| OpenError::Unusable { path: path.to_owned(), cause };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| unusable(error.to_string()))?;
        }
        let db = redb::Database::create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
            error => unusable(error.to_string()),
        })?;
        let db = Arc::new(db);
        let log = EmbeddedLog::new(db.clone()).map_err(|error| unusable(error.to_string()))?;
        let meta = EmbeddedMeta::new(db).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { log: Arc::new(log), meta: Arc::new(meta) })
    }

    /// The log in this file.
    pub fn log(&self) -> Arc<EmbeddedLog> {
        self.log.clone()
    }

    /// The metadata store in this file.
    pub fn meta(&self) -> Arc<EmbeddedMeta> {
        self.meta.clone()
    }
}
