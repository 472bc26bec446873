//! What happens to the cluster from time to time, beside the faults of single calls.

use std::time::Duration;

use windrow_ports::meta::MetaStore;
use windrow_ports::{Log, log::NewTopic};
use windrow_protocol::state::keys;
use windrow_protocol::{PartitionId, TopicName};

use crate::cluster::{Cluster, Process, Services};
use crate::faults::Fault;
use crate::node::{Cut, Service};
use crate::random::Random;

/// Brings disasters over a cluster.
#[derive(Debug)]
pub struct Disasters {
    pub services: Services,
    pub cluster: Cluster,
    pub topic: TopicName,
    pub random: Random,
}

impl Disasters {
    /// One after the other, until the world heals.
    pub async fn run(mut self) {
        let world = self.services.world.clone();
        let disasters = world.profile().disasters.clone();
        if disasters.is_empty() {
            return;
        }
        loop {
            world.time().sleep(self.random.millis(0, 2 * world.profile().disaster_pause_ms)).await;
            if world.is_healed() {
                return;
            }
            let disaster = *self.random.pick(&disasters);
            if self.strike(disaster).await {
                world.count(disaster);
                world.trace(format_args!("disaster {disaster:?}"));
            }
        }
    }

    /// Whether there was anything to hit.
    async fn strike(&mut self, disaster: Fault) -> bool {
        let processes = self.cluster.processes();
        if processes.is_empty() {
            return false;
        }
        let Process { node, shutdown } = self.random.pick(&processes).clone();
        let world = self.services.world.clone();
        match disaster {
            Fault::Crash => node.kill(),
            Fault::Shutdown => shutdown.cancel(),
            Fault::Pause => {
                node.stop();
                self.later(1_000, 30_000, move || node.go_on());
            }
            Fault::Cut => {
                let service = *self.random.pick(&Service::ALL);
                let (requests, replies) = *self.random.pick(&[(true, false), (false, true), (true, true)]);
                node.set_cut(service, Cut { requests, replies });
                self.later(1_000, 20_000, move || node.set_cut(service, Cut::default()));
            }
            Fault::Outage => {
                let service = *self.random.pick(&Service::ALL);
                world.set_away(service, true);
                self.later(500, 15_000, move || world.set_away(service, false));
            }
            Fault::ClockJump => {
                let most = *self.random.pick(&[1_000_000, 20_000_000, 300_000_000]);
                node.set_wall_offset_us(self.random.between(-most, most));
            }
            Fault::LeaseEndsEarly | Fault::LeaseKeptLate => {
                let leases = self.services.meta.leases();
                if leases.is_empty() {
                    return false;
                }
                let lease = *self.random.pick(&leases);
                let late = self.random.millis(5_000, 40_000);
                let remaining = if disaster == Fault::LeaseKeptLate { late } else { Duration::ZERO };
                self.services.meta.set_remaining(lease, remaining);
            }
            Fault::LeaderChange => match self.services.meta.get(keys::LEADER).await {
                Ok(Some(leader)) => self.services.meta.set_remaining(leader.lease, Duration::ZERO),
                _ => return false,
            },
            Fault::Compaction => {
                let revision = self.services.meta.revision();
                return self.services.meta.compact(revision).await.is_ok();
            }
            Fault::Retention => return self.truncate().await,
            Fault::TopicMadeAnew => return self.make_anew().await,
            _ => return false,
        }
        true
    }

    /// Undoes a disaster after a while.
    fn later(&mut self, low_ms: i64, high_ms: i64, undo: impl FnOnce() + Send + 'static) {
        let (time, after) = (self.services.world.time().clone(), self.random.millis(low_ms, high_ms));
        tokio::spawn(async move {
            time.sleep(after).await;
            undo();
        });
    }

    /// Retention drops some of the oldest records of a partition, sometimes nearly all.
    async fn truncate(&mut self) -> bool {
        let log = &self.services.log;
        let Ok(info) = log.topic(&self.topic).await else { return false };
        let partition = PartitionId(self.random.below(info.partitions as u64) as i32);
        let Ok(found) = log.bounds(&self.topic, &[partition]).await else { return false };
        let Some(Ok(bounds)) = found.into_iter().next() else { return false };
        let held = bounds.high_watermark.0 - bounds.log_start.0;
        let most = if self.random.chance(0.5) { held } else { held / 4 };
        let before = windrow_protocol::Offset(bounds.log_start.0 + self.random.between(0, most.max(1)));
        most > 0 && log.truncate(&self.topic, partition, before).await.is_ok()
    }

    async fn make_anew(&mut self) -> bool {
        let log = &self.services.log;
        let Ok(info) = log.topic(&self.topic).await else { return false };
        let (name, partitions) = (self.topic.clone(), info.partitions);
        let new = NewTopic { name, partitions, replication: 1, retention_ms: None, max_ahead_ms: None };
        log.delete_topic(&self.topic).await.is_ok() && log.create_topic(&new).await.is_ok()
    }
}

/// Ends all that still stands from disasters.
pub fn heal(services: &Services, cluster: &Cluster) {
    services.world.heal();
    for Process { node, .. } in cluster.processes() {
        node.go_on();
        node.set_wall_offset_us(0);
        Service::ALL.into_iter().for_each(|service| node.set_cut(service, Cut::default()));
    }
}
