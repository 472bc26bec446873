//! Arrow in, Arrow out: the job's SQL, and Parquet. The only crate that knows DataFusion.
//!
//! Knows nothing of logs, leases, markers or schedules. User SQL sees one table and nothing else: see [`sql`].

pub mod engine;
pub mod parquet;
pub mod schema;
pub mod sql;

pub use engine::{BatchStream, Engine, EngineSettings};
pub use schema::readings_schema;
pub use sql::{map_schema, reduce_schema, validate};

/// Why processing failed, by what the caller should do.
#[derive(Debug, thiserror::Error)]
pub enum ProcessingError {
    /// The job's SQL does not fit its data or itself: trying again can't help.
    #[error("{0}")]
    Query(String),
    /// Memory, disk: may work elsewhere or later.
    #[error("out of resources: {0}")]
    Resources(String),
    /// What feeds the query failed; the feeder knows why.
    #[error("input failed: {0}")]
    Input(String),
}

impl From<datafusion::error::DataFusionError> for ProcessingError {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        use datafusion::error::DataFusionError as E;
        match error.find_root() {
            E::ResourcesExhausted(what) => Self::Resources(what.clone()),
            E::IoError(error) => Self::Resources(error.to_string()),
            E::External(error) => Self::Input(error.to_string()),
            // Spilling wraps what the disk said.
            E::ArrowError(cause, _) if is_io(cause.as_ref()) => Self::Resources(cause.to_string()),
            _ => Self::Query(error.strip_backtrace()),
        }
    }
}

fn is_io(mut error: &(dyn std::error::Error + 'static)) -> bool {
    loop {
        if error.is::<std::io::Error>() {
            return true;
        }
        match error.source() {
            Some(source) => error = source,
            None => return false,
        }
    }
}

impl From<std::io::Error> for ProcessingError {
    fn from(error: std::io::Error) -> Self {
        Self::Resources(error.to_string())
    }
}

impl From<::parquet::errors::ParquetError> for ProcessingError {
    fn from(error: ::parquet::errors::ParquetError) -> Self {
        match error {
            // Of the disk that is read or written.
            ::parquet::errors::ParquetError::External(cause) if cause.is::<std::io::Error>() => {
                Self::Resources(cause.to_string())
            }
            error => Self::Input(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::error::ArrowError;
    use datafusion::error::DataFusionError;

    use super::*;

    #[test]
    fn a_full_disk_is_no_fault_of_the_query_however_it_is_wrapped() {
        let full = || std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left");
        let wrapped = ArrowError::IoError("spilling".to_owned(), full());
        for error in [DataFusionError::IoError(full()), DataFusionError::ArrowError(Box::new(wrapped), None)] {
            let error = ProcessingError::from(error.context("sort"));
            assert!(matches!(&error, ProcessingError::Resources(_)), "{error:?}");
        }
        let divided = DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None);
        assert!(matches!(ProcessingError::from(divided), ProcessingError::Query(_)));
    }
}
