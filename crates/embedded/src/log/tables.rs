//! Tables and what is asked of them. All of it blocks.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use windrow_ports::log::{Append, Bounds, LogError, NewTopic, Record, TopicInfo};
use windrow_protocol::cut::Lookup;
use windrow_protocol::{Offset, Timestamp, TopicId, TopicName};

use super::unavailable;

/// Name to [`Topic`] as JSON.
const TOPICS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("log_topics");
/// (topic, partition, offset) to (timestamp ms, largest timestamp so far ms, key, payload).
type RecordKey = (u32, i32, i64);
type RecordValue = (i64, i64, Option<&'static [u8]>, &'static [u8]);
const RECORDS: TableDefinition<'static, RecordKey, RecordValue> = TableDefinition::new("log_records");
/// (topic, partition) to (first offset kept, first offset not there yet).
const BOUNDS: TableDefinition<'static, (u32, i32), (i64, i64)> = TableDefinition::new("log_bounds");
/// The number of the next topic. Numbers are never used again.
const NEXT: TableDefinition<'static, (), u32> = TableDefinition::new("log_next_topic");

/// Topic number and partition.
pub type Place = (u32, i32);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Topic {
    pub number: u32,
    pub id: TopicId,
    pub partitions: i32,
    pub retention_ms: Option<i64>,
}

impl Topic {
    pub fn info(&self) -> TopicInfo {
        TopicInfo { retention_ms: self.retention_ms, ..TopicInfo::new(self.id.clone(), self.partitions) }
    }
}

#[derive(Debug, Clone)]
pub struct Tables {
    db: Arc<redb::Database>,
}

fn db<E: Into<redb::Error>>(error: E) -> LogError {
    unavailable(&error.into())
}

impl Tables {
    pub fn open(db: Arc<redb::Database>) -> Result<Self, redb::Error> {
        let txn = db.begin_write()?;
        txn.open_table(TOPICS)?;
        txn.open_table(RECORDS)?;
        txn.open_table(BOUNDS)?;
        txn.open_table(NEXT)?;
        txn.commit()?;
        Ok(Self { db })
    }

    pub fn topic(&self, name: &TopicName) -> Result<Topic, LogError> {
        let txn = self.db.begin_read().map_err(db)?;
        let topics = txn.open_table(TOPICS).map_err(db)?;
        let found = topics.get(name.as_str()).map_err(db)?.ok_or_else(|| LogError::NoTopic(name.to_string()))?;
        serde_json::from_slice(found.value()).map_err(|error| unavailable(&error))
    }

    pub fn create(&self, new: &NewTopic) -> Result<(), LogError> {
        let txn = self.db.begin_write().map_err(db)?;
        {
            let mut topics = txn.open_table(TOPICS).map_err(db)?;
            if topics.get(new.name.as_str()).map_err(db)?.is_some() {
                return Err(LogError::Exists(new.name.to_string()));
            }
            let mut next = txn.open_table(NEXT).map_err(db)?;
            let number = next.get(()).map_err(db)?.map_or(0, |number| number.value());
            next.insert((), number + 1).map_err(db)?;
            let id = TopicId::new(uuid::Uuid::new_v4().to_string()).map_err(|error| unavailable(&error))?;
            let topic = Topic { number, id, partitions: new.partitions, retention_ms: new.retention_ms };
            let json = serde_json::to_vec(&topic).map_err(|error| unavailable(&error))?;
            topics.insert(new.name.as_str(), json.as_slice()).map_err(db)?;
        }
        txn.commit().map_err(db)
    }

    pub fn delete(&self, name: &TopicName) -> Result<(), LogError> {
        let number = self.topic(name)?.number;
        let txn = self.db.begin_write().map_err(db)?;
        {
            txn.open_table(TOPICS).map_err(db)?.remove(name.as_str()).map_err(db)?;
            let mut records = txn.open_table(RECORDS).map_err(db)?;
            let all = (number, i32::MIN, i64::MIN)..=(number, i32::MAX, i64::MAX);
            records.retain_in(all, |_, _| false).map_err(db)?;
            let mut bounds = txn.open_table(BOUNDS).map_err(db)?;
            bounds.retain_in((number, i32::MIN)..=(number, i32::MAX), |_, _| false).map_err(db)?;
        }
        txn.commit().map_err(db)
    }

    /// Drops records before an offset. The prefix maxima of what stays are made anew, up to the first that is its own
    /// maximum anyway: dropped records no longer count.
    pub fn truncate(&self, place: Place, before: i64) -> Result<(), LogError> {
        let txn = self.db.begin_write().map_err(db)?;
        {
            let mut bounds = txn.open_table(BOUNDS).map_err(db)?;
            let (start, end) = bounds.get(place).map_err(db)?.map_or((0, 0), |found| found.value());
            let before = before.clamp(start, end);
            bounds.insert(place, (before, end)).map_err(db)?;
            let mut records = txn.open_table(RECORDS).map_err(db)?;
            records.retain_in((place.0, place.1, start)..(place.0, place.1, before), |_, _| false).map_err(db)?;
            let mut largest = i64::MIN;
            for offset in before..end {
                let key = (place.0, place.1, offset);
                let Some((time, was, record_key, payload)) = records.get(key).map_err(db)?.map(|found| {
                    let (time, was, record_key, payload) = found.value();
                    (time, was, record_key.map(<[u8]>::to_vec), payload.to_vec())
                }) else {
                    continue;
                };
                largest = largest.max(time);
                if was == largest {
                    break;
                }
                records.insert(key, (time, largest, record_key.as_deref(), payload.as_slice())).map_err(db)?;
            }
        }
        txn.commit().map_err(db)
    }

    /// After a write that failed (a full disk) the database refuses all others until it is opened anew; reads go on.
    pub fn expect_writable(&self) -> Result<(), LogError> {
        self.db.begin_write().map_err(db)?.abort().map_err(db)
    }

    pub fn snapshot(&self) -> Result<Snapshot, LogError> {
        let txn = self.db.begin_read().map_err(db)?;
        let records = txn.open_table(RECORDS).map_err(db)?;
        let bounds = txn.open_table(BOUNDS).map_err(db)?;
        Ok(Snapshot { records, bounds })
    }

    /// Appends many lists of records in one durable transaction.
    pub fn append(&self, lists: &[(Place, &[Append])]) -> Result<Vec<Vec<Offset>>, LogError> {
        let txn = self.db.begin_write().map_err(db)?;
        let mut offsets = Vec::with_capacity(lists.len());
        {
            let mut records = txn.open_table(RECORDS).map_err(db)?;
            let mut bounds = txn.open_table(BOUNDS).map_err(db)?;
            for (place, list) in lists {
                let (start, end) = bounds.get(*place).map_err(db)?.map_or((0, 0), |found| found.value());
                let last = (place.0, place.1, end - 1);
                let mut largest = if start == end { None } else { records.get(last).map_err(db)?.map(|r| r.value().1) }
                    .unwrap_or(i64::MIN);
                for (at, record) in (end..).zip(list.iter()) {
                    let time = record.timestamp.millis();
                    largest = largest.max(time);
                    let value = (time, largest, record.key.as_deref(), record.payload.as_ref());
                    records.insert((place.0, place.1, at), value).map_err(db)?;
                }
                let new_end = end + list.len() as i64;
                bounds.insert(*place, (start, new_end)).map_err(db)?;
                offsets.push((end..new_end).map(Offset).collect());
            }
        }
        txn.commit().map_err(db)?;
        Ok(offsets)
    }
}

/// One consistent view.
pub struct Snapshot {
    records: redb::ReadOnlyTable<RecordKey, RecordValue>,
    bounds: redb::ReadOnlyTable<(u32, i32), (i64, i64)>,
}

impl Snapshot {
    pub fn bounds(&self, place: Place) -> Result<Bounds, LogError> {
        let (start, end) = self.bounds.get(place).map_err(db)?.map_or((0, 0), |found| found.value());
        Ok(Bounds { log_start: Offset(start), high_watermark: Offset(end) })
    }

    /// The first offset whose prefix maximum is at or after the time: there the running maximum first reaches it, so
    /// there lies the first record at or after it.
    pub fn look_up(&self, place: Place, time_ms: i64) -> Result<Lookup, LogError> {
        let bounds = self.bounds(place)?;
        let (mut low, mut high) = (bounds.log_start.0, bounds.high_watermark.0);
        let end = high;
        while low < high {
            let middle = low + (high - low) / 2;
            let found = self.records.get((place.0, place.1, middle)).map_err(db)?;
            let largest = found.map_or(i64::MIN, |record| record.value().1);
            if largest >= time_ms { high = middle } else { low = middle + 1 }
        }
        Ok(if low < end { Lookup::At(Offset(low)) } else { Lookup::Beyond })
    }

    pub fn records(&self, place: Place, range: Range<i64>) -> Result<Vec<Record>, LogError> {
        let keys = (place.0, place.1, range.start)..(place.0, place.1, range.end);
        let mut records = Vec::new();
        for entry in ReadableTable::range(&self.records, keys).map_err(db)? {
            let (key, value) = entry.map_err(db)?;
            let (time_ms, _, record_key, payload) = value.value();
            records.push(Record {
                offset: Offset(key.value().2),
                timestamp: Timestamp::from_millis(time_ms),
                key: record_key.map(Bytes::copy_from_slice),
                payload: Bytes::copy_from_slice(payload),
            });
        }
        Ok(records)
    }
}
