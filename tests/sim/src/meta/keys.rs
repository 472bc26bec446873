//! Keys, revisions, leases, history and watchers: what calls do to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use windrow_ports::meta::{Compare, Event, Events, KeyValue, Listing, MAX_TXN_OPS, MetaError, Op, Txn, TxnOutcome};

use super::OnChange;

type Told = Result<Events, MetaError>;

pub struct Keys {
    pub items: BTreeMap<String, KeyValue>,
    pub revision: i64,
    pub leases: BTreeMap<i64, Lease>,
    granted: i64,
    /// The changes of each revision that is kept.
    history: BTreeMap<i64, Vec<Event>>,
    /// Up to here no revision is kept.
    compacted: i64,
    /// In the order in which they came, which is the order in which they are told.
    watchers: Vec<(String, mpsc::UnboundedSender<Told>)>,
    on_change: OnChange,
}

pub struct Lease {
    pub ttl: Duration,
    pub expires: Duration,
}

fn key_of(event: &Event) -> &str {
    match event {
        Event::Put(item) => &item.key,
        Event::Delete { key, .. } => key,
    }
}

/// What a watcher of a prefix is told of a revision.
fn seen(prefix: &str, revision: i64, events: &[Event]) -> Option<Events> {
    let events: Vec<Event> = events.iter().filter(|event| key_of(event).starts_with(prefix)).cloned().collect();
    (!events.is_empty()).then_some(Events { events, revision })
}

impl Keys {
    pub fn new(on_change: OnChange) -> Self {
        Self {
            items: BTreeMap::new(),
            revision: 1,
            leases: BTreeMap::new(),
            granted: 0,
            history: BTreeMap::new(),
            compacted: 0,
            watchers: Vec::new(),
            on_change,
        }
    }

    fn under(&self, prefix: &str) -> impl Iterator<Item = &KeyValue> {
        let prefix = prefix.to_owned();
        let from = self.items.range(prefix.clone()..);
        from.take_while(move |(key, _)| key.starts_with(&prefix)).map(|(_, item)| item)
    }

    pub fn list(&self, prefix: &str) -> Listing {
        Listing { items: self.under(prefix).cloned().collect(), revision: self.revision }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.items.contains_key(key),
            Compare::Created(key, revision) => self.items.get(key).is_some_and(|it| it.create_revision == *revision),
            Compare::Modified(key, revision) => self.items.get(key).is_some_and(|it| it.mod_revision == *revision),
        }
    }

    fn check(&self, txn: &Txn) -> Result<(), MetaError> {
        if txn.when.len().max(txn.then.len()) > MAX_TXN_OPS {
            return Err(MetaError::Refused(format!("more than {MAX_TXN_OPS} conditions or operations")));
        }
        let mut put = BTreeSet::new();
        for op in &txn.then {
            let Op::Put { key, lease, .. } = op else { continue };
            if !put.insert(key) {
                return Err(MetaError::Refused(format!("{key} is put twice")));
            }
            if *lease != 0 && !self.leases.contains_key(lease) {
                return Err(MetaError::NoLease(*lease));
            }
        }
        Ok(())
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        self.check(txn)?;
        let applied = txn.when.iter().all(|compare| self.holds(compare));
        if applied {
            let revision = self.revision + 1;
            let mut events = Vec::new();
            for op in &txn.then {
                match op {
                    Op::Put { key, value, lease } => {
                        let create_revision = self.items.get(key).map_or(revision, |item| item.create_revision);
                        let (key, value, lease) = (key.clone(), value.clone(), *lease);
                        let item = KeyValue { key, value, create_revision, mod_revision: revision, lease };
                        self.items.insert(item.key.clone(), item.clone());
                        events.push(Event::Put(item));
                    }
                    Op::Delete { key } => events.extend(self.delete(key, revision)),
                    Op::DeletePrefix { prefix } => {
                        let keys: Vec<String> = self.under(prefix).map(|item| item.key.clone()).collect();
                        events.extend(keys.iter().filter_map(|key| self.delete(key, revision)));
                    }
                }
            }
            self.changed(revision, events);
        }
        Ok(TxnOutcome { applied, revision: self.revision })
    }

    fn delete(&mut self, key: &str, revision: i64) -> Option<Event> {
        self.items.remove(key).map(|item| Event::Delete { key: item.key, revision })
    }

    /// Without events there is no new revision.
    fn changed(&mut self, revision: i64, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.revision = revision;
        (self.on_change)(&events);
        self.watchers.retain(|(prefix, tell)| match seen(prefix, revision, &events) {
            Some(news) => tell.send(Ok(news)).is_ok(),
            None => !tell.is_closed(),
        });
        self.history.insert(revision, events);
    }

    pub fn watch(&mut self, prefix: &str, from: i64) -> mpsc::UnboundedReceiver<Told> {
        let (tell, told) = mpsc::unbounded_channel();
        if from <= self.compacted {
            // Whoever asked listens: it gets the other end below.
            let _ = tell.send(Err(MetaError::Compacted(self.compacted + 1)));
            return told;
        }
        for (revision, events) in self.history.range(from..) {
            if let Some(news) = seen(prefix, *revision, events) {
                let _ = tell.send(Ok(news));
            }
        }
        self.watchers.push((prefix.to_owned(), tell));
        told
    }

    pub fn grant(&mut self, ttl: Duration, expires: Duration) -> i64 {
        self.granted += 1;
        self.leases.insert(self.granted, Lease { ttl, expires });
        self.granted
    }

    pub fn revoke(&mut self, id: i64) -> Result<(), MetaError> {
        self.leases.remove(&id).ok_or(MetaError::NoLease(id))?;
        let revision = self.revision + 1;
        let bound: Vec<String> =
            self.items.values().filter(|item| item.lease == id).map(|item| item.key.clone()).collect();
        let events = bound.iter().filter_map(|key| self.delete(key, revision)).collect();
        self.changed(revision, events);
        Ok(())
    }

    pub fn compact(&mut self, revision: i64) {
        let revision = revision.min(self.revision);
        self.history = self.history.split_off(&revision);
        self.compacted = self.compacted.max(revision - 1);
    }
}
