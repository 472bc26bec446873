//! The high watermark as the broker that was last read from gave it, which rdkafka does not wrap. A broker that has just
//! become the leader, or a follower, may be behind the one that was asked for the log's end.
#![allow(unsafe_code)]

use std::ffi::CString;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use windrow_protocol::{Offset, PartitionId, TopicName};

/// What the last answer to a fetch said; `None` before there was one. Asks nobody.
pub fn last_seen(consumer: &BaseConsumer, topic: &TopicName, partition: PartitionId) -> Option<Offset> {
    let name = CString::new(topic.as_str()).ok()?;
    let (mut low, mut high) = (0, 0);
    // SAFETY: the client outlives this call, since `consumer` is borrowed; the name is NUL-terminated and only read; both
    // numbers are written before the call returns.
    let error = unsafe {
        let client = consumer.client().native_ptr();
        rd::rd_kafka_get_watermark_offsets(client, name.as_ptr(), partition.0, &mut low, &mut high)
    };
    (error == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(Offset(high))
}
