//! Without Kafka there is an error that names the address, in time.

use std::time::Duration;

use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::LogError;

#[tokio::test]
async fn an_address_where_nobody_listens_is_named() {
    let settings = KafkaSettings { timeout: Duration::from_secs(1), ..KafkaSettings::new("127.0.0.1:1") };
    let error = KafkaLog::connect(settings).await.unwrap_err();
    assert!(matches!(&error, LogError::Unavailable(what) if what.contains("127.0.0.1:1")), "{error:?}");
}
