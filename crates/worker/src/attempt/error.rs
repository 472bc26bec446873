//! Why a try failed, and what follows from it.

use windrow_ports::LogError;
use windrow_processing::ProcessingError;
use windrow_protocol::volume::Seen;
use windrow_storage::StoreError;

/// Why a try failed, by what becomes of the batch.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The log or the store can't be reached: works once it can.
    #[error("{0}")]
    Unavailable(String),
    /// May work when it is tried again, here or elsewhere.
    #[error("{0}")]
    Retry(String),
    /// Can't work: the batch is parked at once.
    #[error("{0}")]
    Park(String),
    /// A window of volume does not end in what the log holds.
    #[error("the window does not end before offset {}: it has {} records so far", .0.through, .0.records)]
    Short(Seen),
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => Self::Unavailable(error.to_string()),
            StoreError::NotFound(_) | StoreError::Local(_) => Self::Retry(error.to_string()),
            StoreError::Broken(_) | StoreError::Unusable(_) => Self::Park(error.to_string()),
        }
    }
}

impl From<LogError> for AttemptError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable(_) => Self::Unavailable(error.to_string()),
            // A broker may not know a topic for a moment: of its own restart, or a leader's move.
            LogError::OutOfRange { .. } | LogError::NoTopic(_) => Self::Retry(error.to_string()),
            LogError::Refused(_) | LogError::Exists(_) => Self::Park(error.to_string()),
        }
    }
}

impl From<ProcessingError> for AttemptError {
    fn from(error: ProcessingError) -> Self {
        match error {
            ProcessingError::Query(_) => Self::Park(error.to_string()),
            ProcessingError::Resources(_) | ProcessingError::Input(_) => Self::Retry(error.to_string()),
        }
    }
}

impl From<std::io::Error> for AttemptError {
    fn from(error: std::io::Error) -> Self {
        Self::Retry(format!("scratch disk: {error}"))
    }
}
