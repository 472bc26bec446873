//! What devices publish: in disorder, late, repeatedly, with silences, and now and then something that is unfit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use windrow_ports::log::{Append, Log};
use windrow_protocol::{PartitionId, Timestamp, TopicName};
use windrow_wire::block::{BlockBuilder, Reading, Value};

use crate::faults::Fault;
use crate::faulty_log::FaultyLog;
use crate::locked;
use crate::node::true_time;
use crate::random::Random;

/// A reading, as far as auditors care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample {
    pub device: u32,
    pub seq: u64,
    pub time: Timestamp,
    /// Its value has the type that jobs declare.
    pub is_fit: bool,
}

/// Where the numbers of readings begin that come when all is quiet.
const STRAGGLERS_FROM: u64 = 1_000_000;

/// A device's name.
pub fn device_name(device: u32) -> String {
    format!("d{device}")
}

/// What was sent: the readings of each record, by its bytes; and which records were acknowledged.
#[derive(Debug, Clone, Default)]
pub struct Sent(Arc<Mutex<BTreeMap<Bytes, Record>>>);

#[derive(Debug, Clone, Default)]
struct Record {
    samples: Vec<Sample>,
    acknowledged: u64,
}

impl Sent {
    /// The readings of a record; `None` for one that is no block.
    pub fn samples(&self, payload: &Bytes) -> Option<Vec<Sample>> {
        locked(&self.0).get(payload).map(|record| record.samples.clone())
    }

    /// The records that were acknowledged, and how often.
    pub fn acknowledged(&self) -> Vec<(Bytes, u64)> {
        let sent = locked(&self.0);
        sent.iter().filter(|(_, record)| record.acknowledged > 0).map(|(p, r)| (p.clone(), r.acknowledged)).collect()
    }

    /// How many readings were sent, repeated ones in new blocks included.
    pub fn readings(&self) -> u64 {
        locked(&self.0).values().map(|record| record.samples.len() as u64).sum()
    }

    fn note(&self, payload: &Bytes, samples: Vec<Sample>) {
        locked(&self.0).entry(payload.clone()).or_insert(Record { samples, acknowledged: 0 });
    }

    fn acknowledge(&self, payload: &Bytes) {
        if let Some(record) = locked(&self.0).get_mut(payload) {
            record.acknowledged += 1;
        }
    }
}

/// How the devices of a partition behave.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Mean pause between two blocks.
    pub pause_ms: i64,
    /// Most readings of a block.
    pub most: u64,
    /// Event times lie up to this far behind.
    pub jitter_us: i64,
    /// Chance that a reading is older than any lateness allows.
    pub late: f64,
    /// Chance that a reading is repeated.
    pub repeat: f64,
    /// Chance that a reading is unfit, or a record no block.
    pub unfit: f64,
    /// Chance that a block is followed by a silence.
    pub silence: f64,
    /// Longest silence.
    pub silence_ms: i64,
}

impl Habits {
    pub fn draw(random: &mut Random, lateness_us: i64) -> Self {
        Self {
            pause_ms: random.between(500, 4_000),
            most: 1 + random.below(8),
            jitter_us: lateness_us * random.between(1, 12) / 10,
            late: random.unit() * 0.05,
            repeat: random.unit() * 0.08,
            unfit: random.unit() * 0.03,
            silence: random.unit() * 0.04,
            silence_ms: random.between(5_000, 90_000),
        }
    }
}

/// The devices of one partition, and the gateway that writes for them.
#[derive(Debug)]
pub struct Producer {
    pub log: FaultyLog,
    pub topic: TopicName,
    pub partition: PartitionId,
    /// Numbers of the devices, and what each counts next.
    pub devices: Vec<(u32, u64)>,
    pub habits: Habits,
    pub random: Random,
    pub sent: Sent,
    pub until: Duration,
}

impl Producer {
    /// Publishes until the end of the workload.
    pub async fn run(mut self) {
        let world = self.log.link.world.clone();
        let mut earlier: Vec<(Bytes, Timestamp)> = Vec::new();
        let mut samples: Vec<Sample> = Vec::new();
        while world.time().now() < self.until {
            let repeated = !earlier.is_empty() && self.random.chance(self.habits.repeat / 4.0);
            let (payload, timestamp) = if repeated {
                world.count(Fault::Repeated);
                self.random.pick(&earlier).clone()
            } else if self.random.chance(self.habits.unfit / 4.0) {
                world.count(Fault::BadRecord);
                (Bytes::from(format!("no block {}", self.random.number())), true_time(world.time()))
            } else {
                let (payload, timestamp, made) = self.block(&samples);
                self.sent.note(&payload, made.clone());
                samples.extend(made);
                (payload, timestamp)
            };
            self.publish(&payload, timestamp).await;
            earlier.push((payload, timestamp));
            let silent = self.random.chance(self.habits.silence);
            let pause = if silent { self.habits.silence_ms } else { 2 * self.habits.pause_ms };
            world.time().sleep(self.random.millis(0, pause)).await;
        }
    }

    /// Publishes one block of old readings: a device that was out of reach for long has come back.
    pub async fn straggle(mut self) {
        self.habits = Habits { late: 1.0, repeat: 0.0, ..self.habits };
        // Numbers that nobody has had: with those of before it would be a device that was started again.
        self.devices.iter_mut().for_each(|(_, next)| *next += STRAGGLERS_FROM);
        let (payload, timestamp, made) = self.block(&[]);
        self.sent.note(&payload, made);
        self.publish(&payload, timestamp).await;
    }

    /// A block of new readings, with some repeated among them.
    fn block(&mut self, before: &[Sample]) -> (Bytes, Timestamp, Vec<Sample>) {
        let now = true_time(self.log.link.world.time());
        let mut made: Vec<Sample> = Vec::new();
        // A block's column has one type, so unfit readings come in blocks of their own.
        let is_fit = !self.random.chance(self.habits.unfit);
        for _ in 0..=self.random.below(self.habits.most) {
            let again =
                (!before.is_empty()).then(|| *self.random.pick(before)).filter(|sample| sample.is_fit == is_fit);
            if let Some(again) = again.filter(|_| self.random.chance(self.habits.repeat)) {
                self.log.link.world.count(Fault::Repeated);
                made.push(again);
                continue;
            }
            let behind = if self.random.chance(self.habits.late) {
                self.random.between(0, 120_000_000)
            } else {
                self.random.between(0, self.habits.jitter_us)
            };
            let at = self.random.below(self.devices.len() as u64) as usize;
            let (device, seq) = &mut self.devices[at];
            made.push(Sample { device: *device, seq: *seq, time: now.plus_micros(-behind), is_fit });
            *seq += 1;
        }
        let mut block = BlockBuilder::default();
        for sample in &made {
            let value = if is_fit { Value::F64(sample.seq as f64) } else { Value::Text("warm") };
            let (device, time_us) = (device_name(sample.device), sample.time.micros());
            block.push(&Reading { device: &device, time_us, seq: Some(sample.seq), fields: vec![("speed", value)] });
        }
        let latest = made.iter().map(|sample| sample.time).max().unwrap_or(now);
        (block.finish(), latest, made)
    }

    /// Sends a record until it is acknowledged, as gateways do. A reply that is lost makes a repeated record.
    async fn publish(&mut self, payload: &Bytes, timestamp: Timestamp) {
        let world = self.log.link.world.clone();
        while world.time().now() < self.until {
            let record = Append { key: None, payload: payload.clone(), timestamp };
            if self.log.append(&self.topic, self.partition, vec![record]).await.is_ok() {
                return self.sent.acknowledge(payload);
            }
            world.time().sleep(self.random.millis(50, 1_000)).await;
        }
    }
}
