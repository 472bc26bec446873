//! Coordinators, workers, log, metadata and store together, on the embedded parts: every reading that was written is in
//! exactly one window's result or in the late set, whoever is stopped in between.

mod cluster;
mod crash_points;
mod mortal;
mod revisions;
mod volume;

use std::time::Duration;

use windrow_protocol::paths::{self, Dataset};

use cluster::{Cluster, spec};

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_is_in_its_window_and_silent_partitions_hold_nothing_back() {
    let cluster = Cluster::new(3).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", Duration::from_secs(5)));
    cluster.apply(spec("")).await;
    // Two partitions of three hours, one block every five minutes; the third stays empty.
    for minute in (0..180).step_by(5) {
        cluster.write(0, "a", minute, minute as u64).await;
        cluster.write(1, "b", minute, minute as u64).await;
    }
    cluster.complete(4).await;
    let counts: Vec<(String, i64)> = cluster.counts().await.into_iter().collect();
    let expected = [("20150901T000000Z", 240), ("20150901T010000Z", 240), ("20150901T020000Z", 240)];
    assert_eq!(counts, expected.map(|(window, n)| (window.to_owned(), n)));
    let (ledger, _) = cluster.ledger(true).await;
    assert_eq!((ledger.kept, ledger.late, ledger.duplicate), (720, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_block_is_written_once_to_the_late_set_and_a_gap_of_months_is_one_run() {
    let cluster = Cluster::new(1).await;
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", Duration::from_secs(5)));
    cluster.apply(spec("")).await;
    cluster.write(0, "a", 0, 0).await;
    cluster.write(0, "a", 75, 1).await;
    cluster.complete(1).await;
    // The first hour is sealed by the block at minute 75: this one comes too late for it.
    cluster.write(0, "a", 30, 2).await;
    cluster.write(0, "a", 60 * 24 * 90, 3).await;
    // From the window before the first block (readings may be up to the lateness out of order) through that of the last.
    let progress = cluster.complete(24 * 90 + 2).await;
    assert_eq!(progress.windows_complete, 24 * 90 + 2);
    let markers = cluster.store.list(&paths::commits(&cluster.job)).await.unwrap().len();
    assert!(markers < 20, "a gap of three months costs {markers} markers");
    let (ledger, _) = cluster.ledger(true).await;
    assert_eq!((ledger.kept, ledger.late), (30, 10));
    let late = cluster.store.list(&paths::dataset(&cluster.job, Dataset::Late)).await.unwrap();
    assert_eq!(late.len(), 1, "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_leader_and_workers_are_stopped_in_turn_nothing_is_lost_or_counted_twice() {
    let cluster = Cluster::new(2).await;
    let mut coordinators = vec![cluster.coordinator("a"), cluster.coordinator("b")];
    let mut workers = vec![cluster.worker("w0", Duration::ZERO), cluster.worker("w1", Duration::ZERO)];
    cluster.apply(spec("")).await;
    let mut written = 0;
    for hour in 0..12i64 {
        for minute in (0..60).step_by(10) {
            for partition in 0..2 {
                cluster
                    .write(partition, ["a", "b"][partition as usize], hour * 60 + minute, (hour * 60 + minute) as u64)
                    .await;
                written += 10;
            }
        }
        // Stopped without grace, in the middle of whatever it does; another comes in its place.
        workers.remove(0).cancel();
        workers.push(cluster.worker(&format!("w{}", hour + 2), Duration::ZERO));
        if hour % 3 == 0 {
            coordinators.remove(0).cancel();
            coordinators.push(cluster.coordinator(&format!("c{hour}")));
        }
    }
    cluster.complete(13).await;
    let counts = cluster.counts().await;
    assert_eq!(counts.values().sum::<i64>(), written, "{counts:?}");
    assert_eq!(counts.len(), 12);
    // Aborted tries may leave staged files that no marker names; everything else holds as ever.
    assert_eq!(cluster.ledger(false).await.0.kept, written as u64);
}
