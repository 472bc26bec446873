use serde_json::json;
use windrow_ports::meta::{Op, Txn};
use windrow_protocol::marker::FileEntry;
use windrow_protocol::paths::Dataset;
use windrow_protocol::{AttemptId, PartitionId, Revision, WindowId};

use super::*;
use crate::fixture;

const PART: Part = Part::Partition(PartitionId(3));

struct World {
    folder: tempfile::TempDir,
    parts: Parts,
    job: JobName,
    window: WindowId,
}

impl World {
    async fn new() -> Self {
        let (folder, parts) = fixture::parts();
        let job = JobName::new("j").unwrap();
        let then = vec![Op::put(keys::job(&job), b"{}".to_vec())];
        parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
        Self { folder, parts, job, window: "2026-01-01T00:00:00Z".parse().unwrap() }
    }

    /// An attempt stages its one file, whose content is the attempt's name.
    async fn stage(&self, attempt: &str) -> FileEntry {
        let local = self.folder.path().join(attempt);
        std::fs::write(&local, attempt).unwrap();
        let id = AttemptId::new(attempt).unwrap();
        let staged = paths::staged(&self.job, self.window, PART, &id, Dataset::Data, 0);
        let path = paths::file(&self.job, Dataset::Data, self.window, PART, 0);
        self.parts.store.stage(&local, &staged, &path, 1).await.unwrap()
    }

    async fn commit(&self, attempt: &str, revision: u32, file: FileEntry) -> Marker {
        let marker = json!({
            "version": 1, "job": self.job, "attempt": attempt, "ledger": {}, "committedAt": "2026-01-01T01:00:00Z",
            "files": [file], "plan": {
                "topic": "t", "topicId": "i", "partition": 3, "revision": revision, "specHash": "h", "generation": 1,
                "window": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T01:00:00Z"},
                "read": {"start": 4, "end": 9}, "owned": {"start": 5, "end": 9}, "sealedBy": "watermark",
            },
        });
        let marker: Marker = serde_json::from_value(marker).unwrap();
        let path = paths::marker(&self.job, self.window, PART, Revision(revision));
        self.parts.store.commit(&path, &marker).await.unwrap();
        marker
    }

    async fn sweep(&self, grace: Duration) -> Swept {
        Janitor::default().sweep(&self.parts, grace).await.unwrap()
    }

    async fn staged(&self) -> usize {
        self.parts.store.list(&paths::staging(&self.job)).await.unwrap().len()
    }

    async fn published(&self) -> Option<String> {
        let path = paths::file(&self.job, Dataset::Data, self.window, PART, 0);
        self.parts.store.get(&path).await.ok().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn what_the_loser_of_a_race_left_is_removed_and_the_result_stays() {
    let world = World::new().await;
    let file = world.stage("winner").await;
    world.stage("loser").await;
    let marker = world.commit("winner", 0, file).await;
    world.parts.store.publish(&marker).await.unwrap();
    assert_eq!(world.sweep(Duration::ZERO).await, Swept { removed: 1, published: 0 });
    assert_eq!((world.staged().await, world.published().await.as_deref()), (0, Some("winner")));
}

#[tokio::test]
async fn what_the_newest_marker_names_is_published_and_never_just_removed() {
    let world = World::new().await;
    let file = world.stage("winner").await;
    world.commit("winner", 0, file).await;
    assert_eq!(world.sweep(Duration::ZERO).await, Swept { removed: 0, published: 1 });
    assert_eq!((world.staged().await, world.published().await.as_deref()), (0, Some("winner")));
}

#[tokio::test]
async fn what_a_replaced_marker_names_is_not_published_over_the_newer_one() {
    let world = World::new().await;
    let old = world.stage("old").await;
    let new = world.stage("new").await;
    world.commit("old", 0, old).await;
    let marker = world.commit("new", 1, new).await;
    world.parts.store.publish(&marker).await.unwrap();
    assert_eq!(world.sweep(Duration::ZERO).await, Swept { removed: 1, published: 0 });
    assert_eq!((world.staged().await, world.published().await.as_deref()), (0, Some("new")));
}

#[tokio::test]
async fn attempts_of_a_batch_in_flight_are_left_alone() {
    let world = World::new().await;
    world.stage("running").await;
    let put = Op::put(keys::batch(&world.job, world.window, PART), b"{}".to_vec());
    world.parts.meta.txn(Txn { when: vec![], then: vec![put] }).await.unwrap();
    assert_eq!(world.sweep(Duration::ZERO).await, Swept::default());
    assert_eq!(world.staged().await, 1);
}

#[tokio::test]
async fn a_batch_whose_marker_is_damaged_keeps_no_other_from_being_cleared() {
    let world = World::new().await;
    world.stage("a-damaged").await;
    let marker = world.folder.path().join("store").join(paths::marker(&world.job, world.window, PART, Revision(0)));
    std::fs::create_dir_all(marker.parent().unwrap()).unwrap();
    std::fs::write(marker, "{").unwrap();
    let other = World { window: "2026-01-01T01:00:00Z".parse().unwrap(), ..world };
    other.stage("b-dead").await;
    assert_eq!(other.sweep(Duration::ZERO).await, Swept { removed: 1, published: 0 });
    assert_eq!(other.staged().await, 1, "what may be of the damaged marker");
}

#[tokio::test]
async fn an_attempt_is_left_alone_until_it_was_seen_for_the_grace() {
    let world = World::new().await;
    world.stage("dead").await;
    let mut janitor = Janitor::default();
    assert_eq!(janitor.sweep(&world.parts, Duration::from_secs(3_600)).await.unwrap(), Swept::default());
    // Seen before, and no younger for it.
    janitor.seen.values_mut().for_each(|since| *since = Duration::ZERO);
    let grace = world.parts.clock.elapsed();
    assert_eq!(janitor.sweep(&world.parts, grace).await.unwrap(), Swept { removed: 1, published: 0 });
}

#[tokio::test]
async fn jobs_of_other_clusters_in_the_same_store_are_left_alone() {
    let world = World::new().await;
    world.stage("theirs").await;
    let then = vec![Op::Delete { key: keys::job(&world.job) }];
    world.parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
    assert_eq!(world.sweep(Duration::ZERO).await, Swept::default());
    assert_eq!(world.staged().await, 1);
}
