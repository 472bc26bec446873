//! Windows that are run again.

use std::time::Duration;

use windrow_ports::log::Log;
use windrow_ports::meta::{MetaStore, Op, Txn};
use windrow_protocol::paths::{self, Dataset};
use windrow_protocol::revise::{Span, SpecRef, Wish, WishId};
use windrow_protocol::state::{JobRecord, keys};
use windrow_protocol::{BackfillName, JobSpec, Offset, PartitionId, Revision, Timestamp, WindowId};

use crate::cluster::{Cluster, spec};

const GRACE: Duration = Duration::from_secs(5);

fn hour(n: i64) -> WindowId {
    let first: Timestamp = "2015-09-01T00:00:00Z".parse().unwrap();
    WindowId::Time(first.plus_micros(n * 3_600_000_000))
}

fn amending() -> JobSpec {
    spec(r#""late": "amend","#)
}

impl Cluster {
    /// Lets a coordinator run until everything is settled.
    async fn settled_by_a_new_coordinator(&self) {
        let coordinator = self.coordinator("a");
        self.settled().await;
        coordinator.cancel();
    }

    /// Readings of a window, as its newest result counts them.
    async fn count(&self, window: WindowId) -> i64 {
        self.counts().await.get(&window.to_string()).copied().unwrap_or_default()
    }

    async fn revision(&self, window: WindowId) -> Option<Revision> {
        self.complete_windows().await.get(&window).map(|complete| complete.plan.revision)
    }

    async fn listed(&self, folder: &str) -> usize {
        self.store.list(folder).await.unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readings_amend_their_window_once_and_the_next_ones_once_more() {
    let cluster = Cluster::new(2).await;
    let _worker = cluster.worker("w1", GRACE);
    cluster.apply(amending()).await;
    // Nobody cuts while it writes: a pause of a second would be a silence, and what comes after it late.
    cluster.write(0, "a", 0, 0).await;
    cluster.write(1, "b", 0, 0).await;
    for partition in [0, 1] {
        cluster.write(partition, "ab", 75, 1).await;
    }
    // The window before the first one, and the first.
    cluster.settled_by_a_new_coordinator().await;
    assert_eq!((cluster.count(hour(0)).await, cluster.revision(hour(0)).await), (20, Some(Revision(0))));
    // Hour 0 is sealed: these come late for it. The batch of hour 1 meets them.
    cluster.write(0, "a", 30, 2).await;
    for partition in [0, 1] {
        cluster.write(partition, "ab", 150, 3).await;
    }
    cluster.settled_by_a_new_coordinator().await;
    assert_eq!((cluster.count(hour(0)).await, cluster.revision(hour(0)).await), (30, Some(Revision(1))));
    let markers = cluster.markers().await;
    assert_eq!(markers[&(PartitionId(0), hour(0))].len(), 2);
    assert_eq!(markers[&(PartitionId(1), hour(0))].len(), 1, "it had none late");
    // And again, on both partitions, with a repeat of what was late before.
    cluster.write(0, "a", 30, 2).await;
    cluster.write(1, "b", 40, 5).await;
    for partition in [0, 1] {
        cluster.write(partition, "ab", 220, 6).await;
    }
    cluster.settled_by_a_new_coordinator().await;
    assert_eq!((cluster.count(hour(0)).await, cluster.revision(hour(0)).await), (40, Some(Revision(2))));
    let (ledger, taken_in) = cluster.ledger(true).await;
    assert_eq!((ledger.late, ledger.amended, taken_in), (30, 30, 30));
    assert_eq!((ledger.kept, ledger.duplicate), (100, 10), "all that was written, the repeat once");
    assert_eq!(cluster.listed(&paths::dataset(&cluster.job, Dataset::Late)).await, 0);
    let kept: Vec<String> =
        cluster.store.list(&paths::revisions(&cluster.job)).await.unwrap().into_iter().map(|it| it.path).collect();
    let expected = ["r0", "r1"].map(|r| format!("congestion/revisions/window={}/{r}/part-reduce-000.parquet", hour(0)));
    assert_eq!(kept, expected, "what the result was before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_empty_gets_a_result_of_its_own() {
    let cluster = Cluster::new(1).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", GRACE));
    cluster.apply(amending()).await;
    cluster.write(0, "a", 0, 0).await;
    // Hours 1 to 7 are one run without readings.
    cluster.write(0, "a", 8 * 60 + 15, 1).await;
    cluster.settled().await;
    cluster.write(0, "a", 5 * 60, 2).await;
    cluster.write(0, "a", 10 * 60, 3).await;
    cluster.settled().await;
    let progress = cluster.complete(10).await;
    assert_eq!((cluster.count(hour(5)).await, cluster.revision(hour(5)).await), (10, Some(Revision(1))));
    let complete = cluster.complete_windows().await;
    let counted: u64 = complete.values().map(|complete| complete.plan.windows).sum();
    assert_eq!(counted, progress.windows_complete, "the run has counted it");
    let (ledger, taken_in) = cluster.ledger(true).await;
    assert_eq!((ledger.kept, ledger.amended, taken_in), (40, 10, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_the_reach_is_set_aside() {
    let cluster = Cluster::new(1).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", GRACE));
    cluster.apply(spec(r#""late": "amend", "amendReach": "2h","#)).await;
    cluster.write(0, "a", 0, 0).await;
    cluster.write(0, "a", 5 * 60 + 15, 1).await;
    cluster.settled().await;
    // Met by the batch of hour 5, which reaches as far as windows that ended at 3.
    cluster.write(0, "a", 0, 2).await;
    cluster.write(0, "a", 3 * 60, 3).await;
    cluster.write(0, "a", 7 * 60, 4).await;
    cluster.settled().await;
    assert_eq!((cluster.count(hour(0)).await, cluster.count(hour(3)).await), (10, 10));
    assert_eq!(cluster.revision(hour(0)).await, Some(Revision(0)));
    let (ledger, taken_in) = cluster.ledger(true).await;
    assert_eq!((ledger.late, ledger.amended, taken_in), (20, 10, 10));
    assert_eq!(cluster.listed(&paths::dataset(&cluster.job, Dataset::Late)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_readings_the_log_has_dropped_stays_and_the_late_ones_are_set_aside() {
    let cluster = Cluster::new(1).await;
    let (_coordinator, worker) = (cluster.coordinator("a"), cluster.worker("w1", GRACE));
    let mut job = serde_json::to_value(amending()).unwrap();
    job["source"]["values"]["pressure"] = "f64".into();
    cluster.apply(serde_json::from_value(job).unwrap()).await;
    cluster.write(0, "a", 0, 0).await;
    cluster.write(0, "a", 75, 1).await;
    cluster.settled().await;
    worker.cancel();
    cluster.write(0, "a", 30, 2).await;
    cluster.write(0, "a", 150, 3).await;
    cluster.db.log().truncate(&cluster.topic, PartitionId(0), Offset(1)).await.unwrap();
    let _worker = cluster.worker("w2", GRACE);
    cluster.settled().await;
    assert_eq!((cluster.count(hour(0)).await, cluster.revision(hour(0)).await), (10, Some(Revision(1))));
    let marker = cluster.markers().await.remove(&(PartitionId(0), hour(0))).unwrap().pop().unwrap();
    assert_eq!((marker.ledger.kept, marker.ledger.late, marker.ledger.amended), (10, 10, 0));
    assert!(marker.carried.is_some());
    assert_eq!(marker.absent, ["pressure"], "what is known of the result is still known");
    let late = cluster.store.list(&paths::dataset(&cluster.job, Dataset::Late)).await.unwrap();
    assert!(late.len() == 1 && late[0].path.contains(&format!("window={}", hour(0))), "{late:?}");
    assert_eq!(cluster.ledger(true).await.1, 10, "nothing is lost");
}

/// As `windrow apply` and `windrow backfill` do.
async fn backfill(cluster: &Cluster, spec: &JobSpec, from: WindowId, until: WindowId) {
    let record = JobRecord { generation: 2, ..JobRecord::new(cluster.job.clone(), spec.clone(), Timestamp::default()) };
    let name = WishId::Backfill(BackfillName::new("b").unwrap());
    let spec_ref = SpecRef { hash: spec.hash(), generation: 2 };
    let wish = Wish::backfill(
        Span { from: from.time().unwrap(), until: until.time().unwrap() },
        spec_ref,
        Timestamp::default(),
    );
    let then = vec![
        Op::put(keys::job(&cluster.job), serde_json::to_vec(&record).unwrap()),
        Op::put(keys::spec(&cluster.job, &spec.hash()), serde_json::to_vec(&spec).unwrap()),
        Op::put(keys::wish(&cluster.job, &name), serde_json::to_vec(&wish).unwrap()),
    ];
    cluster.db.meta().txn(Txn { when: vec![], then }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_runs_its_windows_with_the_new_sql_and_leaves_the_others() {
    let cluster = Cluster::new(2).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", GRACE));
    cluster.apply(spec("")).await;
    for minute in (0..6 * 60).step_by(30) {
        cluster.write(0, "a", minute, minute as u64).await;
        cluster.write(1, "b", minute, minute as u64).await;
    }
    cluster.settled().await;
    let mut twice = spec("");
    twice.map = twice.map.replace("count(*)", "2 * count(*)");
    backfill(&cluster, &twice, hour(1), hour(3)).await;
    cluster.settled().await;
    let mut found = Vec::new();
    for n in 0..4 {
        found.push((cluster.count(hour(n)).await, cluster.revision(hour(n)).await.unwrap().0));
    }
    assert_eq!(found, [(40, 0), (80, 1), (80, 1), (40, 0)]);
    let (ledger, taken_in) = cluster.ledger(true).await;
    assert_eq!((ledger.kept, taken_in), (240, 0));
    let wish = cluster.db.meta().list(&keys::wishes(&cluster.job)).await.unwrap().items.remove(0);
    let wish: Wish = serde_json::from_slice(&wish.value).unwrap();
    assert_eq!((wish.is_done(), wish.planned, wish.refused), (true, 2, 0), "it stays for a look");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_leaves_no_rows_puts_a_file_without_rows_in_their_place() {
    let cluster = Cluster::new(1).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", GRACE));
    let mut plain = spec("");
    plain.reduce = None;
    cluster.apply(plain.clone()).await;
    cluster.write(0, "a", 0, 0).await;
    cluster.write(0, "a", 75, 1).await;
    cluster.settled().await;
    let mut nothing = plain.clone();
    nothing.map = "SELECT device, count(*) AS n FROM readings GROUP BY device HAVING count(*) > 99".to_owned();
    backfill(&cluster, &nothing, hour(0), hour(1)).await;
    cluster.settled().await;
    assert_eq!(cluster.revision(hour(0)).await, Some(Revision(1)));
    let mut data = cluster.store.list(&paths::dataset(&cluster.job, Dataset::Data)).await.unwrap();
    data.retain(|object| object.path.contains(&format!("window={}", hour(0))));
    assert_eq!(data.len(), 1, "published files are replaced, never deleted");
    let marker = cluster.markers().await.remove(&(PartitionId(0), hour(0))).unwrap().pop().unwrap();
    assert_eq!(marker.files.iter().find(|file| file.path == data[0].path).unwrap().rows, 0);
    cluster.ledger(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_refuses_what_the_log_can_no_longer_give_and_goes_on() {
    let cluster = Cluster::new(1).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", GRACE));
    cluster.apply(spec("")).await;
    for minute in (0..4 * 60).step_by(30) {
        cluster.write(0, "a", minute, minute as u64).await;
    }
    cluster.settled().await;
    cluster.db.log().truncate(&cluster.topic, PartitionId(0), Offset(1)).await.unwrap();
    let mut twice = spec("");
    twice.map = twice.map.replace("count(*)", "2 * count(*)");
    backfill(&cluster, &twice, hour(0), hour(2)).await;
    cluster.settled().await;
    let found = (cluster.count(hour(0)).await, cluster.count(hour(1)).await);
    assert_eq!(found, (20, 40), "the first window keeps its result");
    let wish = cluster.db.meta().list(&keys::wishes(&cluster.job)).await.unwrap().items.remove(0);
    let wish: Wish = serde_json::from_slice(&wish.value).unwrap();
    assert_eq!((wish.planned, wish.refused, wish.refusals[0].lost_offsets), (1, 1, 1));
}
