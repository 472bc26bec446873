//! Without etcd there is an error that names the address, in time.

use std::time::Duration;

use windrow_etcd::{EtcdSettings, EtcdStore};
use windrow_ports::MetaError;

#[tokio::test]
async fn an_address_where_nobody_listens_is_named() {
    let settings =
        EtcdSettings { timeout: Duration::from_secs(2), ..EtcdSettings::new(vec!["http://127.0.0.1:1".into()]) };
    let error = EtcdStore::connect(&settings).await.unwrap_err();
    assert!(matches!(&error, MetaError::Unavailable(what) if what.contains("http://127.0.0.1:1")), "{error:?}");
}
