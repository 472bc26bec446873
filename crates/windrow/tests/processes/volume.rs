//! Windows of volume over real services, while the roles are killed.

use serde_json::Value;

use crate::deployment::{BLOCKS, DEVICES, Deployment, PER_HOUR, Services, free_port, until};

const HOURS: u64 = 12;
const WANTED: u64 = 500;

/// The complete windows, in the order of `get windows`.
async fn windows(deployment: &Deployment, servers: [u16; 2]) -> Vec<Value> {
    let listed = deployment.json(&["get", "windows", "--job", &deployment.job, "--all"], servers).await;
    listed.as_array().unwrap().iter().filter(|window| window["state"] == "complete").cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_of_volume_have_every_acknowledged_reading_once_whoever_is_killed() {
    let deployment = Deployment::new(Services::direct());
    let (servers, gates) = ([free_port(), free_port()], [free_port(), free_port()]);
    let mut coordinators = servers.map(|port| deployment.coordinator(port));
    let _gateways = gates.map(|port| deployment.gateway(port));
    let mut workers = [(); 2].map(|()| deployment.worker());
    let window = format!("window: {{every: volume, readings: {WANTED}, within: 6h}}");
    let file = deployment.job_file_of(BLOCKS, &window);
    deployment.run(&["apply", "-f", file.to_str().unwrap()], servers).await;
    for hour in 0..HOURS {
        deployment.send(gates, hour, PER_HOUR).await;
        if hour % 4 == 3 {
            workers.iter_mut().for_each(|worker| worker.kill());
            workers = [(); 2].map(|()| deployment.worker());
            let which = hour as usize % 2;
            coordinators[which].kill();
            coordinators[which] = deployment.coordinator(servers[which]);
        }
    }
    // Silence ends the last window of each partition.
    let readings = DEVICES * HOURS * PER_HOUR;
    until("all readings are in complete windows", || async {
        let complete = windows(&deployment, servers).await;
        let kept: u64 = complete.iter().map(|window| window["ledger"]["kept"].as_u64().unwrap()).sum();
        kept == readings
    })
    .await;
    assert_eq!(deployment.verified(servers).await, (readings, 0));
    assert_eq!(
        deployment.counted().await.values().sum::<i64>() as u64,
        readings,
        "the files hold what the ledgers say"
    );
    let full =
        windows(&deployment, servers).await.iter().filter(|w| w["ledger"]["kept"].as_u64() >= Some(WANTED)).count();
    assert!(full as u64 * WANTED * 2 > readings, "{full} windows are full");
}
