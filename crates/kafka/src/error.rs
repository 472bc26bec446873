//! What Kafka says, as what the caller should do.

use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode as Code;
use windrow_ports::LogError;
use windrow_protocol::TopicName;

use crate::heard::Heard;

/// Makes errors that name the brokers.
#[derive(Debug, Clone)]
pub struct Errors {
    pub brokers: String,
    pub heard: Heard,
}

/// What the broker or librdkafka said. rdkafka's own accessor leaves out administrative operations.
pub fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// Whether the topic or partition is not there.
pub fn is_no_topic(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition))
}

impl Errors {
    pub fn unavailable(&self, what: &dyn std::fmt::Display) -> LogError {
        let cause = self.heard.lately().map(|cause| format!(" ({cause})")).unwrap_or_default();
        LogError::Unavailable(format!("kafka at {}: {what}{cause}", self.brokers))
    }

    pub fn of(&self, topic: &TopicName, error: &KafkaError) -> LogError {
        if is_no_topic(error) {
            return LogError::NoTopic(topic.to_string());
        }
        match code(error) {
            Some(Code::TopicAlreadyExists) => LogError::Exists(topic.to_string()),
            Some(
                Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::InvalidTimestamp
                | Code::InvalidTopic
                | Code::InvalidRecord
                | Code::InvalidPartitions
                | Code::InvalidReplicationFactor
                | Code::InvalidConfig
                | Code::InvalidArgument
                | Code::PolicyViolation
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed,
            ) => LogError::Refused(format!("kafka at {}, topic {topic}: {error}", self.brokers)),
            _ => self.unavailable(&format_args!("topic {topic}: {error}")),
        }
    }

    /// What an error about partitions means: librdkafka calls one unknown, too, that is there and has no leader.
    pub fn of_partition(&self, topic: &TopicName, is_there: bool, error: &KafkaError) -> LogError {
        if is_there && is_no_topic(error) {
            return self.unavailable(&format_args!("topic {topic}: a partition has no leader"));
        }
        self.of(topic, error)
    }

    /// The result of an operation on one topic.
    pub fn topic_result(
        &self,
        topic: &TopicName,
        results: KafkaResult<Vec<Result<String, (String, Code)>>>,
    ) -> Result<(), LogError> {
        match results.map_err(|error| self.of(topic, &error))?.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            Some(Err((_, code))) => Err(self.of(topic, &KafkaError::AdminOp(code))),
            None => Err(self.unavailable(&"no answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_is_missing_is_no_topic_whichever_operation_finds_out() {
        let errors = Errors { brokers: "127.0.0.1:1".to_owned(), heard: Heard::default() };
        let topic = TopicName::new("t").unwrap();
        for error in [
            KafkaError::AdminOp(Code::UnknownTopicOrPartition),
            KafkaError::MetadataFetch(Code::UnknownTopicOrPartition),
            KafkaError::MessageProduction(Code::UnknownPartition),
        ] {
            assert_eq!(errors.of(&topic, &error), LogError::NoTopic("t".to_owned()), "{error}");
        }
        assert_eq!(errors.of(&topic, &KafkaError::AdminOp(Code::TopicAlreadyExists)), LogError::Exists("t".to_owned()));
    }
}
