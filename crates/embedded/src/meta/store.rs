//! The durable side: one redb table of keys, and the revision.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use windrow_ports::meta::{Event, KeyValue};

use super::state::State;

/// Key to (create revision, mod revision, lease, value).
const KEYS: TableDefinition<'static, &'static str, (i64, i64, i64, &'static [u8])> = TableDefinition::new("meta_keys");
const REVISION: TableDefinition<'static, (), i64> = TableDefinition::new("meta_revision");

#[derive(Debug)]
pub struct Store {
    db: Arc<redb::Database>,
}

impl Store {
    pub fn open(db: Arc<redb::Database>) -> Result<Self, redb::Error> {
        let txn = db.begin_write()?;
        txn.open_table(KEYS)?;
        txn.open_table(REVISION)?;
        txn.commit()?;
        Ok(Self { db })
    }

    /// Reads everything. Keys that a lease held are gone with the process that held it.
    pub fn load(&self) -> Result<State, redb::Error> {
        let txn = self.db.begin_read()?;
        // 1 at first, as in etcd, so that 0 never names a revision.
        let revision = txn.open_table(REVISION)?.get(())?.map_or(1, |revision| revision.value());
        let mut keys = BTreeMap::new();
        let mut leased = Vec::new();
        for entry in txn.open_table(KEYS)?.iter()? {
            let (key, value) = entry?;
            let (create_revision, mod_revision, lease, value) = value.value();
            let key = key.value().to_owned();
            if lease != 0 {
                leased.push(key);
                continue;
            }
            let value = Bytes::copy_from_slice(value);
            keys.insert(key.clone(), KeyValue { key, value, create_revision, mod_revision, lease });
        }
        let events: Vec<Event> = leased.into_iter().map(|key| Event::Delete { key, revision: revision + 1 }).collect();
        let revision = if events.is_empty() { revision } else { revision + 1 };
        self.save(revision, events.iter())?;
        Ok(State::new(keys, revision))
    }

    /// Makes events durable.
    pub fn save<'a>(&self, revision: i64, events: impl Iterator<Item = &'a Event>) -> Result<(), redb::Error> {
        let txn = self.db.begin_write()?;
        {
            let mut keys = txn.open_table(KEYS)?;
            for event in events {
                match event {
                    Event::Put(item) => {
                        let value = (item.create_revision, item.mod_revision, item.lease, item.value.as_ref());
                        keys.insert(item.key.as_str(), value)?;
                    }
                    Event::Delete { key, .. } => {
                        keys.remove(key.as_str())?;
                    }
                }
            }
            txn.open_table(REVISION)?.insert((), revision)?;
        }
        txn.commit()?;
        Ok(())
    }
}
