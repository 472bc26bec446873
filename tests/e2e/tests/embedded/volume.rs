//! Windows of volume: so many readings of a partition, or bytes, or what comes within a time.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use windrow_ports::MetaStore;
use windrow_ports::log::Log;
use windrow_processing::parquet;
use windrow_protocol::marker::Marker;
use windrow_protocol::paths::Dataset;
use windrow_protocol::plan::Part;
use windrow_protocol::state::{Progress, keys};
use windrow_protocol::volume::{Amount, Seen, VolumeCut};
use windrow_protocol::{JobSpec, OffsetRange, PartitionId, paths};

use crate::cluster::{Cluster, PATIENCE};

fn of_volume(window: &str) -> JobSpec {
    let text = format!(
        r#"{{"source": {{"topic": "traffic", "values": {{"speed": "f64"}}}}, "window": {{"every": "volume", {window}}},
            "idleTimeout": "1s",
            "map": "SELECT device, count(*) AS n, sum(speed) AS total FROM readings GROUP BY device",
            "reduce": "SELECT sum(n) AS n, sum(total) AS total FROM parts"}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// Readings of the block with a number: anything from 1 to 17.
fn size(block: u64) -> u64 {
    1 + (block * 7 + block / 3) % 17
}

/// The windows of a partition that an oracle cuts from its blocks: offsets and readings, and the readings of the rest.
fn windows_of(blocks: &[u64], wanted: u64) -> (Vec<(OffsetRange, u64)>, u64) {
    let (mut windows, mut start, mut sum) = (Vec::new(), 0, 0);
    for (block, readings) in blocks.iter().enumerate() {
        sum += readings;
        if sum >= wanted {
            let range =
                OffsetRange { start: windrow_protocol::Offset(start), end: windrow_protocol::Offset(block as i64 + 1) };
            windows.push((range, sum));
            (start, sum) = (block as i64 + 1, 0);
        }
    }
    (windows, sum)
}

impl Cluster {
    /// The markers of all partitions' windows in order, with what each has found.
    async fn found(&self) -> BTreeMap<PartitionId, Vec<(Marker, VolumeCut, Seen)>> {
        let mut found: BTreeMap<PartitionId, Vec<_>> = BTreeMap::new();
        for object in self.store.list(&paths::commits(&self.job)).await.unwrap() {
            let (_, window, part, _) = paths::parse_marker(&object.path).unwrap();
            if part == Part::Finish {
                continue;
            }
            let marker = self.store.read_marker::<Marker>(&object.path).await.unwrap().unwrap();
            assert_eq!(windrow_protocol::audit::marker(&marker), Vec::<String>::new(), "{window}");
            assert_eq!(marker.plan.window.id(), window);
            let cut = *marker.plan.volume().expect("a window of volume");
            let seen = cut.found.expect("a marker says where its window ends");
            found.entry(marker.plan.partition).or_default().push((marker, cut, seen));
        }
        found.values_mut().for_each(|windows| windows.sort_by_key(|(marker, ..)| marker.plan.owned.start));
        found
    }

    /// Waits until as many windows are complete; what is open may be in flight.
    async fn windows(&self, windows: u64) {
        let done = async {
            loop {
                let progress = self.db.meta().get(&keys::progress(&self.job)).await.unwrap();
                let progress = progress.map(|item| serde_json::from_slice::<Progress>(&item.value).unwrap());
                if progress.is_some_and(|progress| progress.windows_complete >= windows) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.expect("the windows complete in time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_window_is_full_with_its_last_record_whoever_is_stopped_in_between() {
    const WANTED: u64 = 100;
    let cluster = Cluster::new(4).await;
    let mut coordinators = vec![cluster.coordinator("a"), cluster.coordinator("b")];
    let mut workers = vec![cluster.worker("w0", Duration::ZERO), cluster.worker("w1", Duration::ZERO)];
    cluster.apply(of_volume(&format!(r#""readings": {WANTED}"#))).await;
    let mut blocks: [Vec<u64>; 4] = Default::default();
    let mut seqs = [0; 4];
    for block in 0..360u64 {
        let partition = (block % 4) as usize;
        let readings = size(block);
        cluster
            .write_block(partition as i32, ["a", "b", "c", "d"][partition], block as i64, seqs[partition], readings)
            .await;
        seqs[partition] += readings;
        blocks[partition].push(readings);
        // Stopped without grace, in the middle of whatever it does; another comes in its place.
        if block % 30 == 29 {
            workers.remove(0).cancel();
            workers.push(cluster.worker(&format!("w{}", block + 2), Duration::ZERO));
        }
        if block % 90 == 89 {
            coordinators.remove(0).cancel();
            coordinators.push(cluster.coordinator(&format!("c{block}")));
        }
    }
    let cut = blocks.each_ref().map(|blocks| windows_of(blocks, WANTED));
    let expected: u64 = cut.iter().map(|(windows, _)| windows.len() as u64).sum();
    cluster.windows(expected).await;
    let found = cluster.found().await;
    for (partition, (windows, rest)) in cut.iter().enumerate() {
        let of_partition = &found[&PartitionId(partition as i32)];
        let ends: Vec<_> = of_partition.iter().map(|(marker, _, seen)| (marker.plan.owned, seen.amount)).collect();
        assert_eq!(&ends, windows, "partition {partition}");
        let kept: u64 = of_partition.iter().map(|(marker, ..)| marker.ledger.kept).sum();
        assert_eq!(
            kept + rest,
            blocks[partition].iter().sum::<u64>(),
            "what is acknowledged is kept, or in the open window"
        );
        assert!(*rest < WANTED);
    }
    let counts = cluster.volume_counts().await;
    assert_eq!(counts.len() as u64, expected);
    assert!(counts.values().all(|n| *n as u64 >= WANTED));
    assert_eq!(counts.values().sum::<i64>() as u64, cluster.ledger(false).await.0.kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_bytes_is_cut_window_after_window_and_a_silent_rest_stays_open() {
    const WANTED: u64 = 4_096;
    let cluster = Cluster::new(1).await;
    for block in 0..60 {
        cluster.write_block(0, "a", block as i64, block * 20, 20 + block % 5).await;
    }
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", Duration::from_secs(5)));
    cluster.apply(of_volume(r#""bytes": "4KiB""#)).await;
    let sizes = cluster.payload_bytes(0).await;
    let (windows, _) = windows_of(&sizes, WANTED);
    assert!(windows.len() > 2, "{sizes:?}");
    cluster.windows(windows.len() as u64).await;
    let found = cluster.found().await;
    let ends: Vec<_> =
        found[&PartitionId(0)].iter().map(|(marker, _, seen)| (marker.plan.owned, seen.amount)).collect();
    assert_eq!(ends, windows);
    assert!(found[&PartitionId(0)].iter().all(|(_, cut, _)| cut.until.amount == Amount::Bytes(WANTED)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_ends_before_the_first_record_that_is_too_late_for_it_and_silence_ends_the_last() {
    let cluster = Cluster::new(2).await;
    cluster.apply(of_volume(r#""readings": 50, "within": "10m""#)).await;
    // By time: minutes 0 and 4; 12 and 13, full with 60 readings; 14. The other partition stays empty.
    for (minute, readings) in [(0, 10), (4, 10), (12, 30), (13, 30), (14, 7)] {
        cluster.write_block(0, "a", minute, minute as u64 * 100, readings).await;
    }
    let (_coordinator, _worker) = (cluster.coordinator("a"), cluster.worker("w1", Duration::from_secs(5)));
    cluster.complete(3).await;
    let found = cluster.found().await;
    assert_eq!(found.keys().collect::<Vec<_>>(), [&PartitionId(0)], "an empty partition has no window");
    let windows: Vec<_> = found[&PartitionId(0)]
        .iter()
        .map(|(marker, cut, seen)| {
            (marker.plan.owned.start.0, seen.through.0, seen.amount, cut.sealed_at.map(|at| at.0))
        })
        .collect();
    // The last one is sealed at the end of the log, and each before it where the log says.
    assert_eq!(
        windows.iter().map(|(start, end, n, _)| (*start, *end, *n)).collect::<Vec<_>>(),
        [(0, 2, 20), (2, 4, 60), (4, 5, 7)]
    );
    assert_eq!(windows[2].3, Some(5));
    assert_eq!(cluster.ledger(true).await.0.kept, 87);
}

impl Cluster {
    /// Readings that the result of each window counts.
    async fn volume_counts(&self) -> BTreeMap<String, i64> {
        let mut counts = BTreeMap::new();
        for object in self.store.list(&paths::dataset(&self.job, Dataset::Data)).await.unwrap() {
            let local = self.folder.path().join("result.parquet");
            self.store.download(&object.path, &local).await.unwrap();
            let window =
                object.path.split("window=").nth(1).and_then(|rest| rest.split('/').next()).unwrap().to_owned();
            for batch in parquet::read(&local).unwrap() {
                let batch = batch.unwrap();
                let n = batch.column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap();
                *counts.entry(window.clone()).or_default() += n.iter().flatten().sum::<i64>();
            }
        }
        counts
    }

    /// Bytes of each record's payload.
    async fn payload_bytes(&self, partition: i32) -> Vec<u64> {
        let (log, partition) = (self.db.log(), PartitionId(partition));
        let bounds = log.bounds(&self.topic, &[partition]).await.unwrap().remove(0).unwrap();
        let mut records = log.read(&self.topic, partition, OffsetRange::new(bounds.log_start, bounds.high_watermark));
        let mut sizes = Vec::new();
        while let Some(chunk) = records.next().await {
            sizes.extend(chunk.unwrap().iter().map(|record| record.payload.len() as u64));
        }
        sizes
    }
}
