//! Real data sets on the whole path: `windrow send`, gateway, log, job (map and reduce), Parquet. What comes out is compared
//! with figures computed by plain loops over the CSV, once with all roles in one process on the embedded parts, once with
//! the roles as processes over Kafka, etcd and S3.
//!
//! Equality is exact: counts, minima and maxima don't depend on an order, and sums are sums of whole numbers (the jobs scale
//! decimals), so that no order of addition can differ in the last bits.

mod again;
mod cluster;
mod data;
mod figures;
mod results;

use std::time::Instant;

use cluster::Cluster;
use data::{DataSet, Folder};

/// All data sets, one after the other: their jobs run side by side.
async fn the_figures_are_those_of_plain_loops(cluster: Cluster) {
    let started = Instant::now();
    let folder = Folder::find();
    let sets = DataSet::all(&folder);
    for set in &sets {
        let report = cluster.send(set).await;
        let count = |field: &str| report[field].as_u64().unwrap();
        assert_eq!((count("accepted"), count("bad"), count("refused")), (set.expected.rows, 0, 0), "{report}");
        assert_eq!(count("duplicateTimes"), set.expected.duplicate_times, "{report}");
        assert_eq!(count("missingCells"), set.expected.missing_cells, "{report}");
        cluster.apply(set).await;
    }
    println!("all is sent after {:.1} s", started.elapsed().as_secs_f64());
    for set in &sets {
        cluster.wait(set).await;
        let ledger = results::ledger(&cluster.store(), set.job).await;
        assert_eq!(ledger.kept + ledger.duplicate, set.expected.rows, "{}: {ledger:?}", set.job);
        assert_eq!(ledger.duplicate, set.expected.removed, "{}: {ledger:?}", set.job);
        assert_eq!(
            (ledger.late, ledger.quarantined, ledger.undecodable, ledger.lost_offsets),
            (0, 0, 0, 0),
            "{}",
            set.job
        );
        cluster.verify(set).await;
        let found = results::figures(&cluster.store(), set.job).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), set.expected.figures.keys().collect::<Vec<_>>(), "{}", set.job);
        for (window, rows) in &set.expected.figures {
            assert_eq!(&found[window], rows, "{} window {window}", set.job);
        }
        let seconds = started.elapsed().as_secs_f64();
        println!("{}: {} rows, {} windows alike, after {seconds:.1} s", set.job, set.expected.rows, found.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_process_on_the_embedded_parts() {
    the_figures_are_those_of_plain_loops(Cluster::embedded()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_processes_over_kafka_etcd_and_s3() {
    the_figures_are_those_of_plain_loops(Cluster::real()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_sent_again_adds_nothing() {
    let (cluster, folder) = (Cluster::embedded(), Folder::find());
    let sets = DataSet::all(&folder);
    let set = sets.iter().find(|set| set.job == "trips").unwrap();
    for _ in 0..2 {
        cluster.send(set).await;
    }
    cluster.apply(set).await;
    cluster.wait(set).await;
    let ledger = results::ledger(&cluster.store(), set.job).await;
    // A repeat is late where the first sending has closed its window already.
    assert_eq!(ledger.kept, set.expected.rows, "{ledger:?}");
    assert_eq!(ledger.duplicate + ledger.late, set.expected.rows, "{ledger:?}");
    assert_eq!(results::figures(&cluster.store(), set.job).await, set.expected.figures);
}
