//! etcd passes the suite that the embedded store passes. Needs a running etcd, so it is behind a feature:
//! `WINDROW_TEST_ETCD=http://127.0.0.1:2379 cargo test -p windrow-etcd --features real-services`.
#![cfg(feature = "real-services")]

use std::sync::Arc;

use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_ports::conformance::meta;

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let endpoint = std::env::var("WINDROW_TEST_ETCD").expect("WINDROW_TEST_ETCD names a running etcd");
    let store = EtcdStore::connect(&EtcdSettings::new(vec![endpoint])).await.expect("etcd answers");
    meta::all(Arc::new(store), &format!("/test-{}/", uuid::Uuid::new_v4())).await;
}
