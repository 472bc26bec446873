use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::marker::{Complete, Marker};
use windrow_protocol::plan::{BatchId, FinishPlan, Part};
use windrow_protocol::{Revision, Timestamp, TopicName, paths};

use super::*;
use crate::fixture;

const WINDOW: &str = "2026-01-01T00:00:00Z";

/// A job whose backfill `again` runs one window anew; nobody has taken its batches yet.
struct World {
    api: Api,
    job: JobName,
    window: WindowId,
    /// The plan of its last step.
    last: FinishPlan,
    _folder: tempfile::TempDir,
}

fn plan() -> Value {
    json!({
        "topic": "t", "topicId": "i", "partition": 3, "revision": 1, "specHash": "h", "generation": 1,
        "window": {"start": WINDOW, "end": "2026-01-01T01:00:00Z"}, "sealedBy": "watermark",
        "read": {"start": 4, "end": 9}, "owned": {"start": 5, "end": 9},
        "revises": {"base": 0, "cause": "backfill-again", "late": {"policy": "side", "reach": "7d"}},
    })
}

impl World {
    async fn new() -> Self {
        let (folder, parts) = fixture::parts();
        let (job, window): (_, WindowId) = (JobName::new("j").unwrap(), WINDOW.parse().unwrap());
        let spec = r#"{"source": {"topic": "t"}, "window": {"every": "1h"}, "map": "SELECT 1"}"#;
        let record = JobRecord::new(job.clone(), serde_json::from_str(spec).unwrap(), Timestamp::MIN);
        let id = |part| BatchId { job: job.clone(), window, part, revision: Revision(1) };
        let map =
            BatchRecord::new(id(Part::Partition(PartitionId(3))), Task::Map(serde_json::from_value(plan()).unwrap()));
        let last = json!({
            "window": plan()["window"], "until": "2026-01-01T01:00:00Z", "windows": 1, "partitions": [3], "empty": [], "revision": 1,
            "topic": "t", "topicId": "i", "specHash": "h", "generation": 1,
        });
        let finish: FinishPlan = serde_json::from_value(last).unwrap();
        let last = BatchRecord::new(id(Part::Finish), Task::Finish(finish.clone()));
        let at = window.time().unwrap();
        let spans = Span { from: at, until: at.plus_micros(3_600_000_000) };
        let wish = Wish::backfill(spans, SpecRef { hash: "h".to_owned(), generation: 1 }, at);
        let name = WishId::Backfill(BackfillName::new("again").unwrap());
        let then = vec![
            Op::put(keys::job(&job), encode(&record)),
            Op::put(keys::batch(&job, window, map.id.part), encode(&map)),
            Op::put(keys::batch(&job, window, Part::Finish), encode(&last)),
            Op::put(keys::wish(&job, &name), encode(&wish)),
        ];
        parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
        let api = Api { parts, cluster: v1::Cluster::default(), stop: CancellationToken::new() };
        Self { api, job, window, last: finish, _folder: folder }
    }

    /// A worker puts its marker, and dies before it can say so.
    async fn commit(&self) {
        let marker = json!({
            "version": 1, "job": self.job, "attempt": "dead", "ledger": {}, "files": [], "plan": plan(),
            "committedAt": "2026-01-01T01:00:00Z",
        });
        let marker: Marker = serde_json::from_value(marker).unwrap();
        let path = paths::marker(&self.job, self.window, Part::Partition(PartitionId(3)), Revision(1));
        self.api.parts.store.commit(&path, &marker).await.unwrap();
    }

    /// Cancels the backfill; how many windows it took back, and how many batches are left.
    async fn cancel(&self) -> (u32, usize) {
        let request = v1::CancelBackfillRequest { name: format!("jobs/{}/backfills/again", self.job) };
        let answer = self.api.cancel_backfill(Request::new(request)).await.unwrap().into_inner();
        let left = self.api.parts.meta.list(&keys::batches(&self.job)).await.unwrap().items.len();
        (answer.windows_taken_back, left)
    }
}

#[tokio::test]
async fn a_cancelled_backfill_takes_back_windows_that_nobody_has_begun() {
    assert_eq!(World::new().await.cancel().await, (1, 0));
}

#[tokio::test]
async fn a_window_with_a_marker_is_finished_though_its_backfill_is_cancelled() {
    let world = World::new().await;
    world.commit().await;
    assert_eq!(world.cancel().await, (0, 2), "the next backfill would find this marker in the place of its own");
}

/// What a dry run of a backfill over the window lists, and what it says is refused.
async fn preview(world: &World) -> (u64, Vec<String>) {
    let at = world.window.time().unwrap();
    let backfill = v1::Backfill {
        from_time: Some(convert::timestamp(at)),
        until_time: Some(convert::timestamp(at.plus_micros(3_600_000_000))),
        ..Default::default()
    };
    let parent = format!("jobs/{}", world.job);
    let backfill_id = "other".to_owned();
    let request = v1::CreateBackfillRequest { parent, backfill_id, backfill: Some(backfill), validate_only: true };
    let answer = world.api.create_backfill(Request::new(request)).await.unwrap().into_inner();
    let refusals = answer.backfill.unwrap().refusals;
    (answer.batches_total, refusals.into_iter().map(|refusal| refusal.reason).collect())
}

#[tokio::test]
async fn a_window_that_is_complete_in_part_keeps_no_other_from_being_listed() {
    let world = World::new().await;
    world.commit().await;
    let through = world.window.time().unwrap().plus_micros(3_600_000_000);
    let progress = Progress { origin: Timestamp::MIN, finish_planned_through: through, windows_complete: 0 };
    let meta = &world.api.parts.meta;
    let then = vec![Op::put(keys::progress(&world.job), encode(&progress))];
    meta.txn(Txn { when: vec![], then }).await.unwrap();
    assert_eq!(preview(&world).await, (0, vec![]), "it is run again when its batches are done");
    let gone = Op::DeletePrefix { prefix: keys::batches(&world.job) };
    meta.txn(Txn { when: vec![], then: vec![gone] }).await.unwrap();
    let (batches, refused) = preview(&world).await;
    assert!(batches == 0 && refused.len() == 1 && refused[0].contains("damaged"), "{refused:?}");
}

#[tokio::test]
async fn a_dry_run_says_of_which_windows_the_log_has_dropped_a_part() {
    let world = World::new().await;
    let parts = &world.api.parts;
    let topic = TopicName::new("t").unwrap();
    let new = NewTopic { name: topic.clone(), partitions: 4, replication: 1, retention_ms: None, max_ahead_ms: None };
    parts.log.create_topic(&new).await.unwrap();
    let record = |_| Append { timestamp: Timestamp::default(), key: None, payload: "x".into() };
    parts.log.append(&topic, PartitionId(3), (0..9).map(record).collect()).await.unwrap();
    world.commit().await;
    let mut last = world.last.clone();
    last.revisions = [(PartitionId(3), Revision(1))].into();
    let complete = json!({
        "version": 1, "job": world.job, "attempt": "a", "ledger": {}, "files": [], "rows": 0, "inputs": [], "plan": last,
        "committedAt": "2026-01-01T01:00:00Z",
    });
    let complete: Complete = serde_json::from_value(complete).unwrap();
    let path = paths::marker(&world.job, world.window, Part::Finish, Revision(1));
    parts.store.commit(&path, &complete).await.unwrap();
    let through = world.window.time().unwrap().plus_micros(3_600_000_000);
    let progress = Progress { origin: Timestamp::MIN, finish_planned_through: through, windows_complete: 1 };
    let then = vec![
        Op::put(keys::progress(&world.job), encode(&progress)),
        Op::DeletePrefix { prefix: keys::batches(&world.job) },
    ];
    parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
    assert_eq!(preview(&world).await, (1, vec![]));
    parts.log.truncate(&topic, PartitionId(3), Offset(6)).await.unwrap();
    assert_eq!(preview(&world).await, (0, vec!["the log has dropped offsets [4, 6) of partition 3".to_owned()]));
}
