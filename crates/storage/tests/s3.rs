//! A real S3 server does what a folder does. `cargo xtask test` starts one.

use windrow_storage::{S3Settings, Store};

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: cargo xtask test starts an S3 server and sets it"))
}

fn store(prefix: &str) -> Store {
    let settings = S3Settings {
        endpoint: Some(variable("WINDROW_TEST_S3")),
        region: Some("us-east-1".to_owned()),
        access_key_id: Some(variable("WINDROW_TEST_S3_ACCESS_KEY")),
        secret_access_key: Some(variable("WINDROW_TEST_S3_SECRET_KEY")),
        allow_http: true,
    };
    let url = format!("s3://{}/{prefix}-{}", variable("WINDROW_TEST_S3_BUCKET"), uuid::Uuid::new_v4());
    Store::open(&url, &settings).expect("an S3 store")
}

#[tokio::test]
async fn it_passes_the_probe_and_is_left_clean() {
    let store = store("probe");
    store.probe().await.unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_staged_file_comes_back_as_it_was() {
    let (store, folder) = (store("stage"), tempfile::tempdir().unwrap());
    let local = folder.path().join("local");
    std::fs::write(&local, "abc").unwrap();
    let entry = store.stage(&local, "j/_staging/x", "j/data/x", 7).await.unwrap();
    assert_eq!((entry.bytes, entry.rows), (3, 7));
    assert_eq!(store.sha256("j/_staging/x").await.unwrap(), entry.sha256);
    store.delete(vec!["j/_staging/x".to_owned()]).await.unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}
