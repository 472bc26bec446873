//! A folder as object store.

use windrow_storage::{S3Settings, Store, StoreError};

#[tokio::test]
async fn a_local_folder_passes_the_probe_and_is_left_clean() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/new", folder.path().display());
    let store = Store::open(&url, &S3Settings::default()).unwrap();
    store.probe().await.unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_staged_file_has_size_and_checksum_of_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", folder.path().display()), &S3Settings::default()).unwrap();
    let local = folder.path().join("local");
    std::fs::write(&local, "abc").unwrap();
    let entry = store.stage(&local, "j/_staging/x", "j/data/x", 7).await.unwrap();
    assert_eq!((entry.bytes, entry.rows), (3, 7));
    assert_eq!(entry.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(store.sha256("j/_staging/x").await.unwrap(), entry.sha256);
}

#[test]
fn an_address_of_another_kind_is_refused_with_what_is_expected() {
    let error = Store::open("gs://bucket", &S3Settings::default()).unwrap_err();
    assert!(matches!(&error, StoreError::Unusable(what) if what.contains("s3://bucket/prefix")), "{error}");
}
