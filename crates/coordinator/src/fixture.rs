//! What a coordinator works with, for tests: the embedded parts, in a folder of their own.

use std::sync::Arc;

use tempfile::TempDir;
use windrow_embedded::Database;
use windrow_ports::SystemClock;
use windrow_storage::{S3Settings, Store};

use crate::Parts;

/// The parts go with the folder.
pub fn parts() -> (TempDir, Parts) {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("db")).unwrap();
    let store = Store::open(&format!("file://{}/store", folder.path().display()), &S3Settings::default()).unwrap();
    let parts = Parts { log: db.log(), meta: db.meta(), clock: Arc::new(SystemClock::default()), store };
    (folder, parts)
}
