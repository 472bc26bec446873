//! What librdkafka says in passing about its connections: the cause behind errors that only say "transport failure".

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

/// How long what was said may explain an error.
const FRESH: Duration = Duration::from_secs(60);

/// The last thing that was said. Cheap to share.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<Option<(Instant, String)>>>);

impl ClientContext for Heard {
    fn error(&self, error: KafkaError, reason: &str) {
        // It only sums up what was said of each broker before.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), reason.to_owned()));
    }
}

impl Heard {
    /// What was said lately, if anything.
    pub fn lately(&self) -> Option<String> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.as_ref().filter(|(when, _)| when.elapsed() < FRESH).map(|(_, reason)| reason.clone())
    }
}
