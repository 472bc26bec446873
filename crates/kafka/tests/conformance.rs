//! A real Kafka passes the suite that the embedded log passes. `cargo xtask test` starts one.

use windrow_kafka::{KafkaLog, KafkaSettings};
use windrow_ports::conformance::log;

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let brokers =
        std::env::var("WINDROW_TEST_KAFKA").expect("WINDROW_TEST_KAFKA names a running Kafka: cargo xtask test");
    let kafka = KafkaLog::connect(KafkaSettings::new(brokers)).await.expect("Kafka answers");
    log::all(std::sync::Arc::new(kafka), &format!("test-{}", uuid::Uuid::new_v4())).await;
}
