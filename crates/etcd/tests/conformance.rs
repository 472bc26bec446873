//! A real etcd passes the suite that the embedded store passes. `cargo xtask test` starts one.

use std::sync::Arc;

use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_ports::conformance::meta;

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let endpoint =
        std::env::var("WINDROW_TEST_ETCD").expect("WINDROW_TEST_ETCD names a running etcd: cargo xtask test");
    let store = EtcdStore::connect(&EtcdSettings::new(vec![endpoint])).await.expect("etcd answers");
    meta::all(Arc::new(store), &format!("/test-{}/", uuid::Uuid::new_v4())).await;
}
