use std::os::unix::ffi::OsStrExt;

use serde_json::json;
use windrow_ports::meta::{Op, Txn};
use windrow_protocol::paths::Dataset;
use windrow_protocol::plan::BatchId;
use windrow_protocol::revise::{Span, SpecRef, Wish};
use windrow_protocol::state::{BatchRecord, Task};
use windrow_protocol::{JobName, Offset};

use super::*;
use crate::fixture::{self, Meanwhile};
use crate::view::encode;

const P3: Part = Part::Partition(PartitionId(3));

struct World {
    parts: Parts,
    job: JobRecord,
    folder: tempfile::TempDir,
}

fn hour(hour: i64) -> Timestamp {
    Timestamp::from_millis(hour * 3_600_000)
}

fn window(of: i64) -> WindowId {
    WindowId::Time(hour(of))
}

/// Nobody leads, and nobody shall.
fn leads() -> Compare {
    Compare::Absent(keys::LEADER.to_owned())
}

impl World {
    /// Six hours of 1970 are complete, ten offsets of one partition each; two are to be kept, since what ended at a
    /// retention before the newest is kept, too.
    async fn new() -> Self {
        let (folder, parts) = fixture::parts();
        let spec = r#"{"source": {"topic": "t"}, "window": {"every": "1h"}, "map": "SELECT 1", "output": {"retention": "119m"}}"#;
        let name = JobName::new("j").unwrap();
        let job = JobRecord::new(name, serde_json::from_str(spec).unwrap(), Timestamp::MIN);
        let world = Self { parts, job, folder };
        for of in 0..6 {
            world.complete(of).await;
        }
        world.put(keys::job(&world.job.name), encode(&world.job)).await;
        world.put(keys::spec(&world.job.name, "h"), encode(&world.job.spec)).await;
        let progress = json!({"origin": hour(0), "finishPlannedThrough": hour(6), "windowsComplete": 6});
        world.put(keys::progress(&world.job.name), progress.to_string().into_bytes()).await;
        world
    }

    async fn put(&self, key: String, value: Vec<u8>) {
        self.parts.meta.txn(Txn { when: vec![], then: vec![Op::put(key, value)] }).await.unwrap();
    }

    fn plan(of: i64) -> serde_json::Value {
        json!({
            "topic": "t", "topicId": "i", "partition": 3, "revision": 0, "specHash": "h", "generation": 1,
            "window": {"start": hour(of), "end": hour(of + 1)}, "sealedBy": "watermark",
            "read": {"start": of * 10, "end": of * 10 + 10}, "owned": {"start": of * 10, "end": of * 10 + 10},
        })
    }

    /// An hour with its file and markers.
    async fn complete(&self, of: i64) {
        let (store, job) = (&self.parts.store, &self.job.name);
        let local = self.folder.path().join("local");
        std::fs::write(&local, "rows").unwrap();
        let path = paths::file(job, Dataset::Data, window(of), P3, 0);
        let file = store.stage(&local, &format!("j/_staging/{of}"), &path, 1).await.unwrap();
        let marker = json!({
            "version": 1, "job": "j", "attempt": "a", "ledger": {"late": 2, "amended": 2}, "files": [file],
            "plan": Self::plan(of), "committedAt": hour(of + 1),
        });
        let marker: Marker = serde_json::from_value(marker).unwrap();
        store.commit(&paths::marker(job, window(of), P3, Revision(0)), &marker).await.unwrap();
        store.publish(&marker).await.unwrap();
        let complete = json!({
            "version": 1, "job": "j", "attempt": "a", "files": [], "rows": 1, "ledger": {}, "inputs": [],
            "committedAt": hour(of + 3), "plan": {
                "topic": "t", "topicId": "i", "window": Self::plan(of)["window"], "until": hour(of + 1), "windows": 1,
                "partitions": [3], "empty": [], "revision": 0, "specHash": "h", "generation": 1,
            },
        });
        let complete: Complete = serde_json::from_value(complete).unwrap();
        store.commit(&paths::marker(job, window(of), Part::Finish, Revision(0)), &complete).await.unwrap();
    }

    /// A window of volume whose records end before an hour; without one, it has lost them all, and was committed at hour 1.
    async fn complete_of_volume(&self, partition: i32, offset: i64, until: Option<i64>) {
        let (start, until) = (Timestamp::MIN, until.map_or(Timestamp::MAX, hour));
        let window = json!({"start": start, "end": until, "volume": {"partition": partition, "offset": offset}});
        let complete = json!({
            "version": 1, "job": "j", "attempt": "a", "files": [], "rows": 1, "ledger": {}, "inputs": [],
            "committedAt": hour(1), "plan": {
                "topic": "t", "topicId": "i", "window": window, "until": until, "windows": 1,
                "partitions": [partition], "empty": [], "revision": 0, "specHash": "h", "generation": 1,
            },
        });
        let complete: Complete = serde_json::from_value(complete).unwrap();
        let id = complete.plan.window.id();
        let range = json!({"start": offset, "end": offset + 10});
        let marker = json!({
            "version": 1, "job": "j", "attempt": "a", "ledger": {}, "files": [], "committedAt": hour(1), "plan": {
                "topic": "t", "topicId": "i", "partition": partition, "revision": 0, "specHash": "h", "generation": 1,
                "window": window, "sealedBy": "watermark", "read": range, "owned": range,
            },
        });
        let marker: Marker = serde_json::from_value(marker).unwrap();
        let of_partition = paths::marker(&self.job.name, id, Part::Partition(PartitionId(partition)), Revision(0));
        self.parts.store.commit(&of_partition, &marker).await.unwrap();
        let path = paths::marker(&self.job.name, id, Part::Finish, Revision(0));
        self.parts.store.commit(&path, &complete).await.unwrap();
    }

    /// A batch that is to look at a window.
    async fn fly(&self, window: WindowId, part: Part) {
        let id = BatchId { job: self.job.name.clone(), window, part, revision: Revision(1) };
        let batch = BatchRecord::new(id, Task::Map(serde_json::from_value(Self::plan(2)).unwrap()));
        self.put(keys::batch(&self.job.name, window, part), encode(&batch)).await;
    }

    async fn end(&self, window: WindowId, part: Part) {
        let then = vec![Op::Delete { key: keys::batch(&self.job.name, window, part) }];
        self.parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
    }

    async fn expire(&self) -> u64 {
        expire(&self.parts, &self.job, &leads()).await.unwrap()
    }

    /// The hours that have objects in a folder.
    async fn left(&self, folder: &str) -> Vec<i64> {
        let found = self.parts.store.list(folder).await.unwrap();
        let hours = (0..6).filter(|of| found.iter().any(|object| object.path.contains(&window(*of).to_string())));
        hours.collect()
    }

    async fn record(&self) -> Option<(u64, Expired)> {
        self.parts.store.expired(&self.job.name).await.unwrap()
    }
}

#[tokio::test]
async fn windows_behind_the_retention_go_with_files_and_markers_and_a_record_tells_of_them() {
    let world = World::new().await;
    assert_eq!(world.expire().await, 4);
    assert_eq!((world.left("j/data").await, world.left("j/_commits").await), (vec![4, 5], vec![4, 5]));
    let (number, expired) = world.record().await.unwrap();
    assert_eq!((number, expired.through, expired.windows, expired.amended), (1, Some(hour(4)), 4, 8));
    assert_eq!(expired.ends, [(PartitionId(3), Offset(40))].into());
    assert!(expired.covers(window(3)) && !expired.covers(window(4)));
    assert_eq!(world.expire().await, 0, "nothing is behind it any more");
}

#[tokio::test]
async fn without_a_retention_everything_stays() {
    let mut world = World::new().await;
    world.job.spec.output.retention = None;
    assert_eq!((world.expire().await, world.record().await), (0, None));
    assert_eq!(world.left("j/data").await.len(), 6);
}

#[tokio::test]
async fn what_a_stopped_removal_has_left_goes_with_the_next_one() {
    let world = World::new().await;
    let mut expired = Expired { version: MARKER_VERSION, ..Expired::default() };
    for of in 0..3 {
        let complete = complete(&world.parts, &world.job, window(of)).await.unwrap().unwrap();
        expired.add(&complete, &markers(&world.parts, &world.job, window(of)).await.unwrap());
    }
    assert!(world.parts.store.expire(&world.job.name, 1, &expired).await.unwrap());
    // The first has nothing left but its partition's marker.
    let gone = [
        paths::marker(&world.job.name, window(0), Part::Finish, Revision(0)),
        paths::file(&world.job.name, Dataset::Data, window(0), P3, 0),
    ];
    world.parts.store.delete(gone.into()).await.unwrap();
    assert_eq!(world.expire().await, 1, "the fourth hour is behind the retention, too");
    assert_eq!((world.left("j/data").await, world.left("j/_commits").await), (vec![4, 5], vec![4, 5]));
    let (number, expired) = world.record().await.unwrap();
    assert_eq!((number, expired.windows, expired.ends[&PartitionId(3)]), (2, 4, Offset(40)));
}

#[tokio::test]
async fn a_removal_that_is_stopped_keeps_nobody_reading_and_is_found_again() {
    let world = World::new().await;
    let data = world.folder.path().join("store/j/data").join(format!("window={}", window(0)));
    // Not to be listed: what comes after it is not reached.
    let obstacle = data.join(std::ffi::OsStr::from_bytes(b"\xff"));
    std::fs::write(&obstacle, "").unwrap();
    assert!(expire(&world.parts, &world.job, &leads()).await.is_err());
    let left = world.parts.store.list(&paths::window_commits(&world.job.name, window(0))).await.unwrap();
    let left: Vec<&str> = left.iter().map(|object| object.path.as_str()).collect();
    assert_eq!(
        left,
        [paths::marker(&world.job.name, window(0), P3, Revision(0))],
        "without its end nobody begins to read"
    );
    std::fs::remove_file(obstacle).unwrap();
    world.expire().await;
    assert_eq!((world.left("j/data").await, world.left("j/_commits").await), (vec![4, 5], vec![4, 5]));
}

#[tokio::test]
async fn of_two_that_expire_at_once_one_record_stands() {
    let world = World::new().await;
    let (mine, theirs) = (Expired { windows: 1, ..Expired::default() }, Expired { windows: 2, ..Expired::default() });
    assert!(world.parts.store.expire(&world.job.name, 1, &theirs).await.unwrap());
    assert!(!world.parts.store.expire(&world.job.name, 1, &mine).await.unwrap());
    assert!(world.parts.store.expire(&world.job.name, 1, &theirs).await.unwrap(), "a repeated put is the same put");
    assert_eq!(world.record().await.unwrap().1.windows, 2);
}

#[tokio::test]
async fn windows_that_a_batch_or_a_wish_is_to_look_at_stay_and_all_after_them() {
    let world = World::new().await;
    world.fly(window(2), P3).await;
    assert_eq!(world.expire().await, 0, "the job is complete up to hour 2 alone");
    world.end(window(2), P3).await;
    let spec = SpecRef { hash: "h".to_owned(), generation: 1 };
    let wish = Wish::backfill(Span { from: hour(3), until: hour(6) }, spec, hour(6));
    let key = keys::wish(&world.job.name, &"backfill-b".parse().unwrap());
    world.put(key.clone(), encode(&wish)).await;
    assert_eq!(world.expire().await, 1);
    world.put(key, encode(&Wish { next: hour(6), ..wish })).await;
    assert_eq!(world.expire().await, 3, "a wish that is done looks at nothing");
}

#[tokio::test]
async fn a_window_without_its_last_step_stays_and_all_after_it() {
    let world = World::new().await;
    let path = paths::marker(&world.job.name, window(1), Part::Finish, Revision(0));
    world.parts.store.delete(vec![path]).await.unwrap();
    assert_eq!(world.expire().await, 1);
}

/// Where a window's markers are, and where else they can be: a listing of windows shows those that have some.
fn commits_of(world: &World, of: i64) -> (std::path::PathBuf, std::path::PathBuf) {
    let folder = world.folder.path();
    (folder.join("store").join(paths::window_commits(&world.job.name, window(of))), folder.join("elsewhere"))
}

#[tokio::test]
async fn a_window_that_completes_while_it_is_looked_what_is_old_is_counted() {
    let mut world = World::new().await;
    let (commits, elsewhere) = commits_of(&world, 0);
    std::fs::rename(&commits, &elsewhere).unwrap();
    let completes = async move { std::fs::rename(elsewhere, commits).unwrap() };
    world.parts.meta = Meanwhile::new(world.parts.meta.clone(), completes);
    assert_eq!(world.expire().await, 4);
    assert_eq!(world.record().await.unwrap().1.windows, 4);
}

#[tokio::test]
async fn a_window_of_which_nothing_is_there_keeps_all_after_it() {
    let world = World::new().await;
    let (commits, elsewhere) = commits_of(&world, 2);
    std::fs::rename(&commits, &elsewhere).unwrap();
    assert_eq!((world.expire().await, world.record().await.unwrap().1.through), (2, Some(hour(2))));
    assert_eq!(world.expire().await, 0, "nor with the next record");
    std::fs::rename(&elsewhere, &commits).unwrap();
    assert_eq!((world.expire().await, world.record().await.unwrap().1.windows), (2, 4));
}

/// They have late readings only, and are not one after the other.
#[tokio::test]
async fn what_is_gone_from_before_the_job_s_first_window_leaves_no_gap() {
    let world = World::new().await;
    let early = Expired { through: Some(hour(-5)), ..Expired::default() };
    world.parts.store.expire(&world.job.name, 1, &early).await.unwrap();
    assert_eq!((world.expire().await, world.record().await.unwrap().1.windows), (4, 4));
}

#[tokio::test]
async fn windows_of_volume_go_by_the_age_that_they_have_in_their_partition() {
    let mut world = World::new().await;
    for of in 0..6 {
        remove(&world.parts, &world.job, &leads(), vec![window(of)]).await.unwrap();
    }
    world.job.spec.window = serde_json::from_value(json!({"every": "volume", "readings": 10})).unwrap();
    for (partition, offset, until) in
        [(3, 0, None), (3, 10, Some(2)), (3, 20, Some(6)), (4, 0, Some(3)), (4, 10, Some(4))]
    {
        world.complete_of_volume(partition, offset, until).await;
    }
    let second: WindowId = "p3-o10".parse().unwrap();
    world.fly(second, P3).await;
    assert_eq!(world.expire().await, 1, "the second is looked at");
    world.end(second, P3).await;
    assert_eq!(world.expire().await, 1);
    let left = world.parts.store.list(&paths::commits(&world.job.name)).await.unwrap();
    let left = ["p3-o0", "p3-o10", "p3-o20", "p4-o0", "p4-o10"]
        .map(|id| left.iter().any(|object| object.path.contains(&format!("/{id}/"))));
    assert_eq!(left, [false, false, true, true, true]);
}

#[tokio::test]
async fn a_window_that_is_gone_stays_while_a_revision_that_was_planned_before_reads_it() {
    let world = World::new().await;
    assert_eq!(world.expire().await, 4);
    // Left of a removal that was stopped, or planned while the record was put.
    world.complete(1).await;
    world.fly(window(1), P3).await;
    assert_eq!(world.expire().await, 0);
    assert_eq!(world.left("j/data").await, [1, 4, 5]);
    world.end(window(1), P3).await;
    world.expire().await;
    assert_eq!(world.left("j/data").await, [4, 5]);
}

#[tokio::test]
async fn nothing_goes_while_a_batch_is_not_understood() {
    let world = World::new().await;
    world.put(keys::batch(&world.job.name, window(1), P3), b"of a newer version".to_vec()).await;
    assert_eq!((world.expire().await, world.record().await), (0, None));
}

#[tokio::test]
async fn a_retention_that_was_changed_while_windows_were_looked_through_removes_nothing_by_what_it_was() {
    let world = World::new().await;
    let mut longer = world.job.clone();
    longer.spec.output.retention = Some("365d".parse().unwrap());
    world.put(keys::job(&world.job.name), encode(&longer)).await;
    assert_eq!((world.expire().await, world.record().await), (0, None));
}

#[tokio::test]
async fn what_ended_a_retention_before_the_newest_is_kept() {
    let mut world = World::new().await;
    world.job.spec.output.retention = Some("2h".parse().unwrap());
    world.put(keys::job(&world.job.name), encode(&world.job)).await;
    assert_eq!(world.expire().await, 3, "the fourth hour ended two hours before the sixth");
}

#[tokio::test]
async fn a_removal_that_was_stopped_is_finished_though_the_job_keeps_all_windows_now() {
    let mut world = World::new().await;
    assert_eq!(world.expire().await, 4);
    world.complete(1).await;
    world.job.spec.output.retention = None;
    assert_eq!(world.expire().await, 0);
    assert_eq!(world.left("j/data").await, [4, 5]);
}

#[tokio::test]
async fn what_a_batch_in_flight_may_amend_stays_though_the_job_amends_and_keeps_less_by_now() {
    let world = World::new().await;
    let mut before = world.job.spec.clone();
    (before.late, before.amend_reach) = (LatePolicy::Amend, Some("3h".parse().unwrap()));
    world.put(keys::spec(&world.job.name, "h"), encode(&before)).await;
    world.fly(window(5), P3).await;
    assert_eq!(world.expire().await, 1, "hour 5 may amend what ended at hour 2 or later");
    world.end(window(5), P3).await;
    assert_eq!(world.expire().await, 3);
}

#[tokio::test]
async fn nothing_goes_while_nobody_knows_how_far_back_a_batch_amends() {
    let world = World::new().await;
    world.fly(window(5), P3).await;
    let then = vec![Op::Delete { key: keys::spec(&world.job.name, "h") }];
    world.parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
    assert_eq!(world.expire().await, 0);
}

#[tokio::test]
async fn the_metadata_tells_of_what_goes_before_the_store_does() {
    let world = World::new().await;
    assert_eq!(world.expire().await, 4);
    let told = world.parts.meta.get(&keys::retired(&world.job.name)).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Option<Timestamp>>(&told.value).unwrap(), Some(hour(4)));
}

#[tokio::test]
async fn who_leads_no_more_removes_nothing() {
    let world = World::new().await;
    world.put(keys::LEADER.to_owned(), b"another one".to_vec()).await;
    assert_eq!((world.expire().await, world.record().await), (0, None));
    assert_eq!(world.left("j/data").await.len(), 6);
}

#[tokio::test]
async fn who_has_slept_does_not_remove_the_windows_of_another_job_of_the_name() {
    let mut world = World::new().await;
    assert_eq!(world.expire().await, 4);
    world.complete(1).await;
    let anew = JobRecord::new(world.job.name.clone(), world.job.spec.clone(), hour(1));
    world.put(keys::job(&anew.name), encode(&anew)).await;
    world.expire().await;
    assert_eq!(world.left("j/data").await, [1, 4, 5]);
    world.job = anew;
    world.put(keys::LEADER.to_owned(), b"another one".to_vec()).await;
    world.expire().await;
    assert_eq!(world.left("j/data").await, [1, 4, 5]);
}
