//! The object store: staging an attempt's files, the marker whose creation commits them, and publishing.
//!
//! What to do is decided in `windrow_protocol::commit`; here it is observed and executed. The only crate that knows
//! `object_store`.

mod commit;
mod open;
mod probe;
mod publish;
mod store;

pub use open::S3Settings;
pub use store::{Object, Store};

/// Why a call failed, by what the caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Not now: retry with backoff. A write may have happened: read it back.
    #[error("object store is unavailable: {0}")]
    Unavailable(String),
    /// A file on this machine can't be read or written.
    #[error("scratch disk: {0}")]
    Local(String),
    /// There is no such object.
    #[error("object {0} does not exist")]
    NotFound(String),
    /// An object is not what its marker says. Never retried silently: data is missing or damaged.
    #[error("object store holds something else than was committed: {0}")]
    Broken(String),
    /// The store or its address can't be used as it is.
    #[error("object store can't be used: {0}")]
    Unusable(String),
}

impl From<object_store::Error> for StoreError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { path, .. } => Self::NotFound(path),
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
                Self::Unusable(error.to_string())
            }
            error => Self::Unavailable(error.to_string()),
        }
    }
}
