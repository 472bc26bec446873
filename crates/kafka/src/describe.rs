//! DescribeTopics, for the topic's id, which is how a topic that was made again under its old name is told from the old
//! one. rdkafka does not wrap this call of librdkafka, so this module does.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{IsError, KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use windrow_protocol::TopicId;

/// Frees what librdkafka has allocated, also on an early return.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from librdkafka with this destructor, is not null (checked by `owned`), and is freed
        // only here.
        unsafe { (self.1)(self.0) }
    }
}

fn owned<T>(pointer: *mut T, free: unsafe extern "C" fn(*mut T)) -> KafkaResult<Owned<T>> {
    if pointer.is_null() {
        Err(KafkaError::AdminOpCreation("librdkafka is out of memory".to_owned()))
    } else {
        Ok(Owned(pointer, free))
    }
}

/// Id and number of partitions of a topic. Blocks up to the timeout.
pub fn topic(consumer: &BaseConsumer, name: &str, timeout: Duration) -> KafkaResult<(TopicId, i32)> {
    let client = consumer.client().native_ptr();
    let name = CString::new(name)?;
    let mut names = [name.as_ptr()];
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `client` outlives this call, since `consumer` is borrowed. `names` holds one NUL-terminated string that
    // librdkafka copies. Everything that is made is freed by `Owned`, in reverse order; what is read from the event is
    // copied before the event is freed.
    unsafe {
        let queue = owned(rd::rd_kafka_queue_new(client), rd::rd_kafka_queue_destroy)?;
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let topics = owned(topics, rd::rd_kafka_TopicCollection_destroy)?;
        let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = rd::rd_kafka_AdminOptions_new(client, operation);
        let options = owned(options, rd::rd_kafka_AdminOptions_destroy)?;
        rd::rd_kafka_AdminOptions_set_request_timeout(options.0, timeout_ms, ptr::null_mut(), 0);
        rd::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);
        let event = rd::rd_kafka_queue_poll(queue.0, timeout_ms);
        if event.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        }
        let event = owned(event, rd::rd_kafka_event_destroy)?;
        let error = rd::rd_kafka_event_error(event.0);
        if error.is_error() {
            return Err(KafkaError::AdminOp(error.into()));
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event.0);
        let mut count = 0;
        let found = if result.is_null() {
            ptr::null_mut()
        } else {
            rd::rd_kafka_DescribeTopics_result_topics(result, &mut count)
        };
        if count == 0 || found.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        let description = *found;
        let error = rd::rd_kafka_error_code(rd::rd_kafka_TopicDescription_error(description));
        if error.is_error() {
            return Err(KafkaError::AdminOp(error.into()));
        }
        let id = rd::rd_kafka_Uuid_base64str(rd::rd_kafka_TopicDescription_topic_id(description));
        // Standard base64; the URL-safe digits are what Kafka's own tools print.
        let id = CStr::from_ptr(id).to_string_lossy().replace('+', "-").replace('/', "_");
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(description, &mut partitions);
        let id = TopicId::new(id).map_err(|error| KafkaError::AdminOpCreation(error.to_string()))?;
        Ok((id, partitions as i32))
    }
}
