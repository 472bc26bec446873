//! From readings to blocks by partition. Pure.

use std::collections::BTreeMap;

use windrow_ports::log::Append;
use windrow_protocol::duration::Length;
use windrow_protocol::{PartitionId, Timestamp};
use windrow_wire::block::BlockBuilder;

use crate::partition_of;
use crate::reading::Reading;

/// When a block is full.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Readings. Default 1,000.
    pub rows: usize,
    /// Rough bytes. Default 256 KiB.
    pub bytes: usize,
    /// Event time from the earliest to the latest reading. Default 60 s.
    pub span: Length,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 1_000, bytes: 256 * 1024, span: Length::from_secs(60) }
    }
}

/// Blocks in the order of their readings, by partition. A record's timestamp is the latest event time in its block.
pub fn pack(readings: &[Reading], partitions: i32, limits: &Limits) -> BTreeMap<PartitionId, Vec<Append>> {
    let mut open: BTreeMap<PartitionId, BlockBuilder> = BTreeMap::new();
    let mut packed: BTreeMap<PartitionId, Vec<Append>> = BTreeMap::new();
    for reading in readings {
        let partition = partition_of(&reading.device, partitions);
        let block = open.entry(partition).or_default();
        let row = reading.as_block();
        let t = row.time_us;
        let spans =
            block.time_range_us().is_some_and(|(first, last)| last.max(t) - first.min(t) > limits.span.micros());
        if block.rows() >= limits.rows || block.bytes() >= limits.bytes || spans || !block.accepts(&row) {
            packed.entry(partition).or_default().extend(close(block));
        }
        block.push(&row);
    }
    for (partition, mut block) in open {
        packed.entry(partition).or_default().extend(close(&mut block));
    }
    packed
}

fn close(block: &mut BlockBuilder) -> Option<Append> {
    let (_, latest_us) = block.time_range_us()?;
    Some(Append { key: None, payload: block.finish(), timestamp: Timestamp::from_micros(latest_us) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use windrow_wire::block;

    use super::*;
    use crate::reading::Field;

    proptest! {
        #[test]
        fn every_reading_is_in_one_block_of_its_devices_partition_within_the_limits(
            rows in prop::collection::vec((0usize..9, 0i64..600, any::<bool>()), 0..200)
        ) {
            let readings: Vec<Reading> = rows.iter().map(|(device, second, text)| Reading {
                device: format!("d{device}"),
                time: Timestamp::from_micros(second * 1_000_000),
                seq: None,
                fields: vec![("v".to_owned(), if *text { Field::Text("x".into()) } else { Field::F64(1.0) })],
            }).collect();
            let limits = Limits { rows: 20, ..Limits::default() };
            let mut count = 0;
            for (partition, records) in pack(&readings, 3, &limits) {
                for record in records {
                    let block = block::decode(&record.payload).unwrap();
                    count += block.row_count;
                    prop_assert!(block.row_count <= limits.rows);
                    let (first, last) = (*block.times_us.iter().min().unwrap(), *block.times_us.iter().max().unwrap());
                    prop_assert!(last - first <= limits.span.micros());
                    prop_assert_eq!(record.timestamp.micros(), last);
                    prop_assert!(block.devices.iter().all(|device| partition_of(device, 3) == partition));
                }
            }
            prop_assert_eq!(count, readings.len());
        }
    }
}
