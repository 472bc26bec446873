//! Without Kafka there is an error that names the address, in time.

use std::time::Duration;

use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::LogError;

#[tokio::test]
async fn an_address_where_nobody_listens_is_named_with_the_cause() {
    let settings = KafkaSettings { timeout: Duration::from_secs(1), ..KafkaSettings::new("127.0.0.1:1") };
    let error = KafkaLog::connect(settings).await.unwrap_err();
    let LogError::Unavailable(what) = &error else { panic!("{error:?}") };
    assert!(what.contains("127.0.0.1:1") && what.contains("Connection refused"), "{what}");
}
