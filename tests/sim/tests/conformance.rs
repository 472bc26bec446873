//! The fakes pass the suites that the real adapters pass.

use std::sync::Arc;

use windrow_ports::conformance;
use windrow_ports::meta::{MetaStore, Txn};
use windrow_ports::{Log, SystemClock};
use windrow_sim::log::SimLog;
use windrow_sim::meta::SimMeta;

#[tokio::test]
async fn the_log_is_one() {
    let log: Arc<dyn Log> = Arc::new(SimLog::default());
    conformance::log::all(log, "sim").await;
}

/// In real time, because the suite waits for leases by the machine's clock: some seconds.
#[tokio::test]
async fn the_metadata_store_is_one() {
    let meta = Arc::new(SimMeta::new(Arc::new(SystemClock::default()), Box::new(|_| {})));
    conformance::meta::all(meta, "/sim/").await;
}

#[tokio::test]
async fn a_transaction_without_effect_is_no_revision() {
    let meta = SimMeta::new(Arc::new(SystemClock::default()), Box::new(|_| {}));
    let before = meta.revision();
    assert!(meta.txn(Txn::default()).await.expect("an empty transaction").applied);
    assert_eq!(meta.revision(), before);
}
