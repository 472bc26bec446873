//! Services that are away at the start, and that go away in between: roles wait and say for whom, nothing is lost.

use std::net::SocketAddr;
use std::time::Duration;

use crate::deployment::{BLOCKS, DEVICES, Deployment, PER_HOUR, Process, Services, free_port, until, variable};
use crate::proxy::{Proxy, address};

/// A way to each service that can be cut.
struct Ways {
    kafka: Proxy,
    etcd: Proxy,
    s3: Proxy,
}

impl Ways {
    async fn new() -> Self {
        let free = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        let kafka = Proxy::to_kafka().await;
        let etcd = Proxy::new(free(), address(&variable("WINDROW_TEST_ETCD")));
        let s3 = Proxy::new(free(), address(&variable("WINDROW_TEST_S3")));
        Self { kafka, etcd, s3 }
    }

    fn services(&self) -> Services {
        Services {
            kafka: self.kafka.listen.to_string(),
            etcd: format!("http://{}", self.etcd.listen),
            s3: format!("http://{}", self.s3.listen),
            store: Services::a_store(),
        }
    }
}

/// Waits until a role has logged that it can't reach an address.
async fn says(process: &mut Process, address: SocketAddr) {
    until(&format!("{address} is named"), || {
        let named = process.log().contains(&address.to_string());
        assert!(process.is_running(), "it waits instead of ending: {}", process.log());
        std::future::ready(named)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_wait_for_services_that_are_away_and_lose_nothing() {
    let mut ways = Ways::new().await;
    let deployment = Deployment::new(ways.services());
    let (server, gate, probe) = (free_port(), free_port(), free_port());
    let (servers, gates) = ([server; 2], [gate; 2]);
    let mut coordinator = deployment.coordinator(server);
    let mut gateway = deployment.gateway(gate);
    let mut worker = deployment.worker_with(&["--slots", "2", "--http", &format!("127.0.0.1:{probe}")]);

    // At the start: each names what it waits for, and nobody ends.
    for process in [&mut coordinator, &mut gateway, &mut worker] {
        says(process, ways.kafka.listen).await;
    }
    ways.kafka.open().await;
    says(&mut coordinator, ways.etcd.listen).await;
    says(&mut worker, ways.etcd.listen).await;
    ways.etcd.open().await;
    says(&mut worker, ways.s3.listen).await;
    assert_eq!(deployment.readiness(probe).await, Some(503), "a worker that waits lives and is not ready");
    ways.s3.open().await;
    let file = deployment.job_file(BLOCKS);
    deployment.run(&["apply", "-f", file.to_str().unwrap()], servers).await;
    until("the gateway is ready", || async { deployment.readiness(gate).await == Some(200) }).await;
    until("the worker is ready", || async { deployment.readiness(probe).await == Some(200) }).await;
    let lines = |hour| Deployment::lines(hour, PER_HOUR);
    deployment.send(gates, 0, PER_HOUR).await;

    // Kafka goes: the gateway is not ready and acknowledges nothing.
    ways.kafka.cut().await;
    until("the gateway is not ready", || async { deployment.readiness(gate).await == Some(503) }).await;
    let refused = tokio::time::timeout(Duration::from_secs(45), deployment.offer(gate, &lines(1))).await;
    assert!(matches!(refused, Ok(Err(_))), "an answer in time, and no acknowledgement: {refused:?}");
    ways.kafka.open().await;
    deployment.send(gates, 1, PER_HOUR).await;

    // etcd goes for longer than the leases: leader and worker give up what they hold, and begin again.
    ways.etcd.cut().await;
    deployment.send(gates, 2, PER_HOUR).await;
    until("the lease of the worker is over", || std::future::ready(worker.log().contains("registering again"))).await;
    ways.etcd.open().await;
    deployment.run(&["wait", &deployment.job, "--until", "2015-09-01T01:00:00Z", "--timeout", "60s"], servers).await;

    // The store goes: batches wait for it, and are not parked as failed.
    ways.s3.cut().await;
    deployment.send(gates, 3, PER_HOUR).await;
    deployment.send(gates, 5, 1).await;
    until("a batch meets the outage", || std::future::ready(worker.log().contains("batch failed"))).await;
    ways.s3.open().await;
    deployment.run(&["wait", &deployment.job, "--until", "2015-09-01T06:00:00Z", "--timeout", "100s"], servers).await;

    let (kept, aside) = deployment.verified(servers).await;
    assert_eq!(kept + aside, DEVICES * (4 * PER_HOUR + 1));
    for process in [&mut coordinator, &mut gateway, &mut worker] {
        assert!(process.is_running(), "nobody has ended");
    }
}
