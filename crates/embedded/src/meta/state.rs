//! Keys, revisions, leases and history in memory: what commands do, without threads, clocks or disk.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use windrow_ports::meta::{Compare, Event, Events, KeyValue, Listing, MAX_TXN_OPS, MetaError, Op, Txn, TxnOutcome};

/// Revisions whose events are kept for watchers that come late.
const HISTORY: usize = 10_000;

#[derive(Debug, Default)]
pub struct State {
    pub keys: BTreeMap<String, KeyValue>,
    pub revision: i64,
    leases: HashMap<i64, Lease>,
    next_lease: i64,
    /// Events by revision, oldest first, without gap.
    history: VecDeque<(i64, Vec<Event>)>,
    /// Events before this are forgotten.
    compacted: i64,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    /// By the thread's monotonic clock.
    expires: Duration,
    keys: BTreeSet<String>,
}

impl State {
    /// The state as read from disk. Nothing before it can be watched.
    pub fn new(keys: BTreeMap<String, KeyValue>, revision: i64) -> Self {
        Self { keys, revision, compacted: revision, next_lease: 1, ..Self::default() }
    }

    pub fn list(&self, prefix: &str) -> Listing {
        let items = self.under(prefix).map(|(_, item)| item.clone()).collect();
        Listing { items, revision: self.revision }
    }

    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a KeyValue)> {
        self.keys.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Created(key, revision) => self.keys.get(key).is_some_and(|item| item.create_revision == *revision),
            Compare::Modified(key, revision) => self.keys.get(key).is_some_and(|item| item.mod_revision == *revision),
        }
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome, MetaError> {
        if txn.when.len() > MAX_TXN_OPS || txn.then.len() > MAX_TXN_OPS {
            let what = format!("a transaction has at most {MAX_TXN_OPS} conditions and operations");
            return Err(MetaError::Refused(what));
        }
        let mut puts = BTreeSet::new();
        for op in &txn.then {
            let Op::Put { key, lease, .. } = op else { continue };
            if !puts.insert(key) {
                return Err(MetaError::Refused(format!("key {key} is put twice in one transaction")));
            }
            if *lease != 0 && !self.leases.contains_key(lease) {
                return Err(MetaError::NoLease(*lease));
            }
        }
        if !txn.when.iter().all(|compare| self.holds(compare)) {
            return Ok(TxnOutcome { applied: false, revision: self.revision });
        }
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for op in &txn.then {
            match op {
                Op::Put { key, value, lease } => events.push(self.put(key, value.clone(), *lease, revision)),
                Op::Delete { key } => events.extend(self.delete(key, revision)),
                Op::DeletePrefix { prefix } => {
                    let keys: Vec<String> = self.under(prefix).map(|(key, _)| key.clone()).collect();
                    events.extend(keys.iter().filter_map(|key| self.delete(key, revision)));
                }
            }
        }
        self.record(revision, events);
        Ok(TxnOutcome { applied: true, revision: self.revision })
    }

    fn put(&mut self, key: &str, value: bytes::Bytes, lease: i64, revision: i64) -> Event {
        let before = self.keys.get(key);
        let create_revision = before.map_or(revision, |item| item.create_revision);
        let old_lease = before.map_or(0, |item| item.lease);
        if let Some(old) = self.leases.get_mut(&old_lease) {
            old.keys.remove(key);
        }
        if let Some(new) = self.leases.get_mut(&lease) {
            new.keys.insert(key.to_owned());
        }
        let item = KeyValue { key: key.to_owned(), value, create_revision, mod_revision: revision, lease };
        self.keys.insert(key.to_owned(), item.clone());
        Event::Put(item)
    }

    fn delete(&mut self, key: &str, revision: i64) -> Option<Event> {
        let item = self.keys.remove(key)?;
        if let Some(lease) = self.leases.get_mut(&item.lease) {
            lease.keys.remove(key);
        }
        Some(Event::Delete { key: key.to_owned(), revision })
    }

    /// Without events there is no new revision, as in etcd.
    fn record(&mut self, revision: i64, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.revision = revision;
        self.history.push_back((revision, events));
        if self.history.len() > HISTORY
            && let Some((forgotten, _)) = self.history.pop_front()
        {
            self.compacted = self.compacted.max(forgotten);
        }
    }

    pub fn grant(&mut self, ttl: Duration, now: Duration) -> i64 {
        let id = self.next_lease;
        self.next_lease += 1;
        self.leases.insert(id, Lease { ttl, expires: now + ttl, keys: BTreeSet::new() });
        id
    }

    pub fn keep_alive(&mut self, id: i64, now: Duration) -> Result<Duration, MetaError> {
        let lease = self.leases.get_mut(&id).ok_or(MetaError::NoLease(id))?;
        lease.expires = now + lease.ttl;
        Ok(lease.ttl)
    }

    pub fn revoke(&mut self, id: i64) -> Result<(), MetaError> {
        let lease = self.leases.remove(&id).ok_or(MetaError::NoLease(id))?;
        let revision = self.revision + 1;
        let events = lease.keys.iter().filter_map(|key| self.delete(key, revision)).collect();
        self.record(revision, events);
        Ok(())
    }

    /// Ends the leases that are due; tells whether there were any.
    pub fn expire(&mut self, now: Duration) -> bool {
        let due: Vec<i64> = self.leases.iter().filter(|(_, lease)| lease.expires <= now).map(|(id, _)| *id).collect();
        for id in &due {
            // It is there: it was just listed.
            let _ = self.revoke(*id);
        }
        !due.is_empty()
    }

    /// When the next lease expires.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.expires).min()
    }

    pub fn compact(&mut self, revision: i64) {
        let revision = revision.min(self.revision);
        while self.history.front().is_some_and(|(kept, _)| *kept < revision) {
            self.history.pop_front();
        }
        self.compacted = self.compacted.max(revision - 1);
    }

    /// Events under a prefix from a revision on, in one piece per revision.
    pub fn replay(&self, prefix: &str, from: i64) -> Result<Vec<Events>, MetaError> {
        if from <= self.compacted && from <= self.revision {
            return Err(MetaError::Compacted(self.compacted + 1));
        }
        let wanted = self.history.iter().filter(|(revision, _)| *revision >= from);
        Ok(wanted.filter_map(|(revision, events)| pick(prefix, *revision, events)).collect())
    }

    /// Revisions after `revision`, with their events.
    pub fn since(&self, revision: i64) -> impl Iterator<Item = &(i64, Vec<Event>)> {
        self.history.iter().rev().take_while(move |(r, _)| *r > revision).collect::<Vec<_>>().into_iter().rev()
    }
}

/// The events of a revision that lie under a prefix, if any.
pub fn pick(prefix: &str, revision: i64, events: &[Event]) -> Option<Events> {
    let key = |event: &Event| match event {
        Event::Put(item) => item.key.starts_with(prefix),
        Event::Delete { key, .. } => key.starts_with(prefix),
    };
    let events: Vec<Event> = events.iter().filter(|event| key(event)).cloned().collect();
    (!events.is_empty()).then_some(Events { events, revision })
}
