//! Commit and publish, stopped at every call, by two workers on one batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use windrow_protocol::commit::Verdict;
use windrow_protocol::marker::{Expired, FileEntry, MARKER_VERSION, Marker};
use windrow_protocol::plan::{Part, SealedBy};
use windrow_protocol::{
    AttemptId, JobName, Ledger, Offset, OffsetRange, PartitionId, Plan, Revision, Timestamp, TopicId, TopicName,
    Window, paths,
};

use crate::{S3Settings, Store, StoreError};

/// A store whose client dies at its n-th call: before it, or after it (the reply is lost).
#[derive(Debug)]
struct Dying {
    inner: Arc<InMemory>,
    calls_left: AtomicI64,
    after: bool,
}

impl std::fmt::Display for Dying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dying store")
    }
}

fn dead() -> object_store::Error {
    object_store::Error::Generic { store: "dying", source: "the client is dead".into() }
}

impl Dying {
    async fn call<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let left = self.calls_left.fetch_sub(1, Ordering::SeqCst);
        if left < 0 || (left == 0 && !self.after) {
            return Err(dead());
        }
        let result = call.await;
        if left == 0 { Err(dead()) } else { result }
    }
}

#[async_trait]
impl ObjectStore for Dying {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.call(self.inner.put_opts(location, payload, opts)).await
    }
    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.call(self.inner.put_multipart_opts(location, opts)).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.call(self.inner.get_opts(location, options)).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let left = self.calls_left.fetch_sub(1, Ordering::SeqCst);
        if left <= 0 {
            return Box::pin(futures::stream::iter([Err(dead())]));
        }
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.call(self.inner.list_with_delimiter(prefix)).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call(self.inner.copy_opts(from, to, options)).await
    }
}

fn marker(attempt: &str, files: Vec<FileEntry>) -> Marker {
    let range = OffsetRange::new(Offset(0), Offset(9));
    let window = Window::new(Timestamp::from_millis(0), Timestamp::from_millis(3_600_000));
    let plan = Plan {
        topic: TopicName::new("t").unwrap(),
        topic_id: TopicId::new("id").unwrap(),
        partition: PartitionId(0),
        window,
        read: range,
        owned: range,
        lost: None,
        sealed_by: SealedBy::Watermark,
        revision: Revision(0),
        spec_hash: "h".into(),
        generation: 1,
        revises: None,
    };
    Marker {
        version: MARKER_VERSION,
        job: job(),
        plan,
        attempt: AttemptId::new(attempt).unwrap(),
        ledger: Ledger::default(),
        files,
        quarantine_reasons: vec![],
        absent: vec![],
        skipped: None,
        amends: None,
        carried: None,
        damaged: vec![],
        committed_at: Timestamp::from_millis(0),
    }
}

fn job() -> JobName {
    JobName::new("job").unwrap()
}

const PART: Part = Part::Partition(PartitionId(0));

/// What a worker does with a batch, from staging to publishing; each attempt writes content of its own.
async fn work(store: &Store, name: &str) -> std::result::Result<Verdict, StoreError> {
    let attempt = AttemptId::new(name).unwrap();
    let window = marker(name, vec![]).plan.window.id();
    let marker_path = paths::marker(&job(), window, PART, Revision(0));
    if let Some(found) = store.read_marker::<Marker>(&marker_path).await? {
        store.publish(&found).await?;
        return Ok(Verdict::Lost(found.attempt));
    }
    let mut files = Vec::new();
    for number in 0..2 {
        let local = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(local.path(), format!("{name}{number}")).unwrap();
        let staged = paths::staged(&job(), window, PART, &attempt, paths::Dataset::Data, number);
        let path = paths::file(&job(), paths::Dataset::Data, window, PART, number);
        files.push(store.stage(local.path(), &staged, &path, 1).await?);
    }
    let (verdict, found) = store.commit(&marker_path, &marker(name, files)).await?;
    store.publish(&found).await?;
    if matches!(verdict, Verdict::Lost(_)) {
        store.delete_folder(&paths::attempt(&job(), window, PART, &attempt)).await?;
    }
    Ok(verdict)
}

/// Published contents, in order of path.
async fn published(store: &Store) -> Vec<String> {
    let mut contents = Vec::new();
    for object in store.list("job/data").await.unwrap() {
        contents.push(String::from_utf8(store.get(&object.path).await.unwrap().to_vec()).unwrap());
    }
    contents
}

#[tokio::test]
async fn wherever_a_worker_dies_the_next_one_finishes_and_one_attempt_is_visible() {
    let mut points = 0;
    for after in [false, true] {
        for calls in 0..60 {
            let inner = Arc::new(InMemory::new());
            let dying = Dying { inner: inner.clone(), calls_left: AtomicI64::new(calls), after };
            let first = work(&Store::new("dying", Arc::new(dying)), "a").await;
            let store = Store::new("memory", inner);
            let before = published(&store).await;
            assert!(before.iter().all(|content| content.starts_with('a')), "only a marked attempt is ever visible");
            work(&store, "b").await.unwrap();
            let contents = published(&store).await;
            assert!(contents == ["a0", "a1"] || contents == ["b0", "b1"], "after {calls} calls: {contents:?}");
            if !before.is_empty() {
                assert_eq!(contents, ["a0", "a1"], "what was visible stays: after {calls} calls");
            }
            if first.is_ok() {
                assert_eq!(contents, ["a0", "a1"]);
                break;
            }
            points += 1;
        }
    }
    assert!(points > 20, "the crash covered {points} points only");
}

#[tokio::test]
async fn of_many_workers_on_one_batch_one_wins_and_all_publish_its_files() {
    let store = Store::new("memory", Arc::new(InMemory::new()));
    let names: Vec<String> = (0..8).map(|i| format!("w{i}x")).collect();
    let verdicts = futures::future::join_all(names.iter().map(|name| work(&store, name))).await;
    let won = verdicts.iter().filter(|verdict| matches!(verdict, Ok(Verdict::Won))).count();
    assert_eq!(won, 1, "{verdicts:?}");
    assert_eq!(published(&store).await.len(), 2);
    let staged = store.list("job/_staging").await.unwrap();
    assert!(staged.is_empty(), "losers clear up: {staged:?}");
}

#[tokio::test]
async fn a_marker_that_stands_is_never_replaced() {
    let store = Store::new("memory", Arc::new(InMemory::new()));
    let (first, second) = (marker("a", vec![]), marker("b", vec![]));
    assert_eq!(store.commit("m", &first).await.unwrap(), (Verdict::Won, first.clone()));
    // Nobody looks before it puts: the put itself is the fence.
    assert_eq!(store.commit("m", &second).await.unwrap(), (Verdict::Lost(first.attempt.clone()), first.clone()));
    assert_eq!(store.commit("m", &first).await.unwrap(), (Verdict::Won, first.clone()), "its own put, sent again");
    assert_eq!(store.read_marker("m").await.unwrap(), Some(first));
}

#[tokio::test]
async fn a_file_that_vanished_is_reported_as_broken() {
    let store = Store::new("memory", Arc::new(InMemory::new()));
    let file = FileEntry { staged: "s".into(), path: "p".into(), bytes: 3, rows: 1, sha256: String::new() };
    let broken = store.publish(&marker("a", vec![file])).await;
    assert!(matches!(broken, Err(StoreError::Broken(_))), "{broken:?}");
}

#[tokio::test]
async fn what_is_not_published_whole_is_named() {
    let store = Store::new("memory", Arc::new(InMemory::new()));
    let files = ["whole", "short", "missing"].map(|path| FileEntry {
        staged: format!("staged-{path}"),
        path: path.into(),
        bytes: 3,
        rows: 1,
        sha256: String::new(),
    });
    for (path, content) in [("whole", "abc"), ("short", "ab")] {
        store.inner.put(&Path::from(path), content.into()).await.unwrap();
    }
    assert_eq!(store.unpublished(&marker("a", files.to_vec())).await.unwrap(), ["short", "missing"]);
}

#[tokio::test]
async fn a_marker_of_a_newer_program_is_not_read_as_if_it_were_understood() {
    let store = Store::new("memory", Arc::new(InMemory::new()));
    let newer = Marker { version: MARKER_VERSION + 1, ..marker("a", vec![]) };
    for (path, marker) in [("known", marker("a", vec![])), ("newer", newer)] {
        store.inner.put(&Path::from(path), serde_json::to_vec(&marker).unwrap().into()).await.unwrap();
    }
    assert!(store.read_marker::<Marker>("known").await.unwrap().is_some());
    let refused = store.read_marker::<Marker>("newer").await;
    assert!(matches!(&refused, Err(StoreError::Broken(why)) if why.contains("version 2")), "{refused:?}");
}

#[tokio::test]
async fn the_newest_marker_of_a_part_is_that_of_its_last_revision() {
    let store = Store::new("memory", Arc::new(InMemory::new()));
    let window = marker("a", vec![]).plan.window.id();
    for number in [0, 10, 9] {
        let mut marker = marker("a", vec![]);
        marker.plan.revision = Revision(number);
        let path = paths::marker(&job(), window, PART, marker.plan.revision);
        assert_eq!(store.commit(&path, &marker).await.unwrap().0, Verdict::Won);
    }
    let newest = store.newest_marker::<Marker>(&job(), window, PART).await.unwrap();
    assert_eq!(newest.map(|marker| marker.plan.revision), Some(Revision(10)));
    assert_eq!(store.newest_marker::<Marker>(&job(), window, Part::Finish).await.unwrap(), None);
}

#[tokio::test]
async fn of_the_records_of_windows_that_are_gone_the_newest_stands_alone_and_is_never_replaced() {
    let store = Store::new("memory", Arc::new(InMemory::new()));
    let expired = |windows| Expired { windows, ..Expired::default() };
    assert_eq!(store.expired(&job()).await.unwrap(), None);
    for number in [9, 10, 11] {
        assert!(store.expire(&job(), number, &expired(number)).await.unwrap());
        assert_eq!(store.expired(&job()).await.unwrap(), Some((number, expired(number))));
    }
    assert_eq!(store.list(&paths::expired_folder(&job())).await.unwrap().len(), 1, "older ones go");
    assert!(!store.expire(&job(), 11, &expired(12)).await.unwrap(), "another leader's stands");
    assert!(store.expire(&job(), 11, &expired(11)).await.unwrap(), "a repeated put is the same put");
    assert!(
        !store.expire(&job(), 10, &expired(12)).await.unwrap(),
        "a leader that has slept finds its number free again"
    );
    assert_eq!(store.expired(&job()).await.unwrap(), Some((11, expired(11))));
    assert_eq!(store.list(&paths::expired_folder(&job())).await.unwrap().len(), 1);
}

/// Engines that read a folder take every file in it, also those that listings of the store leave out.
#[tokio::test]
async fn in_a_folder_a_file_is_published_once_though_somebody_was_stopped_in_the_middle_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}/out", folder.path().display()), &S3Settings::default()).unwrap();
    let local = folder.path().join("local");
    std::fs::write(&local, "abc").unwrap();
    let entry = store.stage(&local, "j/_staging/x/a", "j/data/x/a", 1).await.unwrap();
    let (staged, path) = (Path::from(entry.staged.as_str()), Path::from(entry.path.as_str()));
    store.inner.copy(&staged, &path).await.unwrap();
    let marker = marker("a", vec![entry]);
    store.publish(&marker).await.unwrap();
    store.publish(&marker).await.unwrap();
    let names = |folder: std::path::PathBuf| std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name());
    assert_eq!(names(folder.path().join("out/j/data/x")).collect::<Vec<_>>(), ["a"]);
    assert!(!folder.path().join("out/j/_staging").exists(), "nor does an empty folder stay");
}
