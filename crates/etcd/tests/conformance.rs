//! A real etcd passes the suite that the embedded store passes. `cargo xtask test` starts one.

use std::sync::Arc;

use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_ports::MetaStore;
use windrow_ports::conformance::meta;
use windrow_ports::meta::{Op, Txn};

async fn connect(prefix: String) -> Arc<EtcdStore> {
    let endpoint =
        std::env::var("WINDROW_TEST_ETCD").expect("WINDROW_TEST_ETCD names a running etcd: cargo xtask test");
    let settings = EtcdSettings { prefix, ..EtcdSettings::new(vec![endpoint]) };
    Arc::new(EtcdStore::connect(&settings).await.expect("etcd answers"))
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let id = uuid::Uuid::new_v4();
    meta::all(connect(String::new()).await, &format!("/test-{id}/")).await;
    // The same below a prefix of its own.
    meta::all(connect(format!("/cluster-{id}")).await, "/test/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_with_prefixes_of_their_own_do_not_see_each_other() {
    let id = uuid::Uuid::new_v4();
    let (one, other) = (connect(format!("/one-{id}")).await, connect(format!("/other-{id}")).await);
    let put = Txn { when: vec![], then: vec![Op::put("/key", "1")] };
    one.txn(put).await.unwrap();
    assert_eq!(one.get("/key").await.unwrap().unwrap().key, "/key");
    assert_eq!(other.get("/key").await.unwrap(), None);
    assert!(other.list("/").await.unwrap().items.is_empty());
}
