//! kill -9 of each role in turn, under steady ingest, while somebody reads the output.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use windrow_protocol::JobName;
use windrow_protocol::paths;

use crate::deployment::{BLOCKS, DEVICES, Deployment, PER_HOUR, Services, free_port, until};

const HOURS: u64 = 48;

/// Sends hour after hour until all are acknowledged.
async fn ingest(deployment: Arc<Deployment>, gates: [u16; 2], sent: Arc<AtomicU64>) {
    for hour in 0..HOURS {
        deployment.send(gates, hour, PER_HOUR).await;
        sent.store(hour + 1, Ordering::SeqCst);
    }
    // One minute of a later hour closes the hours before it; the hour itself is closed by silence.
    deployment.send(gates, HOURS + 2, 1).await;
}

/// Reads what plain readers see, over and over: what was there once stays as it is.
async fn watch_output(deployment: Arc<Deployment>, stop: Arc<AtomicBool>) -> u64 {
    let (mut looks, mut seen) = (0, BTreeMap::new());
    while !stop.load(Ordering::SeqCst) {
        let now = deployment.counted().await;
        for (file, n) in &seen {
            assert_eq!(now.get(file), Some(n), "{file} was published and has changed");
        }
        assert!(now.values().all(|n| *n <= (DEVICES * PER_HOUR) as i64), "an hour counts a reading twice: {now:?}");
        (looks, seen) = (looks + 1, now);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    looks
}

/// Waits until as many hours are sent, so that kills meet work.
async fn reached(sent: &AtomicU64, hour: u64) {
    until("ingest goes on", || async { sent.load(Ordering::SeqCst) >= hour }).await;
}

/// Waits until some attempt has staged a file and not committed yet.
async fn in_the_middle_of_a_commit(deployment: &Deployment) {
    let (store, staging) = (deployment.store(), paths::staging(&JobName::new(&deployment.job).unwrap()));
    until("an attempt stages a file", || async { !store.list(&staging).await.unwrap().is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_every_acknowledged_reading_is_counted_once() {
    let deployment = Deployment::new(Services::direct());
    let (servers, gates) = ([free_port(), free_port()], [free_port(), free_port()]);
    let mut coordinators = servers.map(|port| deployment.coordinator(port));
    let mut gateways = gates.map(|port| deployment.gateway(port));
    let mut workers = [(); 3].map(|()| deployment.worker());
    let file = deployment.job_file(BLOCKS);
    deployment.run(&["apply", "-f", file.to_str().unwrap()], servers).await;

    let deployment = Arc::new(deployment);
    let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let ingest = tokio::spawn(ingest(deployment.clone(), gates, sent.clone()));
    let output = tokio::spawn(watch_output(deployment.clone(), stop.clone()));
    for round in 0..4 {
        let which = round as usize % 2;
        reached(&sent, round * 10 + 2).await;
        in_the_middle_of_a_commit(&deployment).await;
        workers.iter_mut().for_each(|worker| worker.kill());
        workers = [(); 3].map(|()| deployment.worker());
        reached(&sent, round * 10 + 5).await;
        // Whichever leads is among the first two.
        coordinators[which].kill();
        coordinators[which] = deployment.coordinator(servers[which]);
        reached(&sent, round * 10 + 8).await;
        gateways[which].kill();
        gateways[which] = deployment.gateway(gates[which]);
    }
    ingest.await.unwrap();
    let end = "2015-09-03T03:00:00Z";
    deployment.run(&["wait", &deployment.job, "--until", end, "--timeout", "60s"], servers).await;
    stop.store(true, Ordering::SeqCst);
    assert!(output.await.unwrap() > 0);

    let readings = DEVICES * (HOURS * PER_HOUR + 1);
    let (kept, aside) = deployment.verified(servers).await;
    assert_eq!(kept + aside, readings);
    assert_eq!(deployment.counted().await.values().sum::<i64>() as u64, kept, "the files hold what the ledgers say");
    // Workers were killed while they had staged files, which nobody else can publish.
    let (store, staging) = (deployment.store(), paths::staging(&JobName::new(&deployment.job).unwrap()));
    until("what dead attempts had staged is cleared up", || async { store.list(&staging).await.unwrap().is_empty() })
        .await;
    let deleted = deployment.run(&["delete", &deployment.job], servers).await;
    assert!(String::from_utf8_lossy(&deleted.stdout).contains("deleted"));
    let ended = [&mut coordinators[..], &mut gateways[..], &mut workers[..]];
    for process in ended.into_iter().flatten() {
        assert!(process.terminate().success(), "SIGTERM ends a role in order: {}", process.log());
    }
}
