//! The suite for [`crate::MetaStore`]. Each function is one property and panics, with the property, where it is broken.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use super::Property;
use crate::meta::{Compare, Event, Events, MAX_TXN_OPS, MetaError, MetaStore, Op, Txn};

/// How long anything may take that does not wait for a lease.
const PATIENCE: Duration = Duration::from_secs(30);

/// The shortest lease that etcd grants by default.
const TTL: Duration = Duration::from_secs(2);

/// Every property. Each works under the prefix that it is given, and leaves keys behind.
pub fn properties() -> Vec<Property<dyn MetaStore>> {
    macro_rules! properties {
        ($($name:ident)*) => {
            vec![$(Property {
                name: stringify!($name),
                // Compaction is of the whole store.
                disturbs: stringify!($name) == stringify!(compacted_watches_say_so),
                check: |store, place| Box::pin(async move { $name(store, &place).await }),
            }),*]
        };
    }
    properties! {
        revisions_tell_creation_and_change
        lists_are_ordered_and_whole
        transactions_are_all_or_nothing
        leader_writes_are_fenced
        counters_lose_nothing
        leases_take_their_keys_with_them
        a_kept_lease_outlives_its_ttl
        watches_replay_and_follow
        compacted_watches_say_so
    }
}

/// Checks every property. `prefix` must be unused and end with a slash.
pub async fn all(store: Arc<dyn MetaStore>, prefix: &str) {
    for property in properties() {
        property.check(store.clone(), format!("{prefix}{}/", property.name)).await;
    }
}

async fn put(store: &dyn MetaStore, key: &str, value: &str) -> i64 {
    let txn = Txn { when: vec![], then: vec![Op::put(key, value.to_owned())] };
    store.txn(txn).await.expect("put").revision
}

async fn next(watch: &mut futures::stream::BoxStream<'static, Result<Events, MetaError>>) -> Result<Events, MetaError> {
    loop {
        let item =
            tokio::time::timeout(PATIENCE, watch.next()).await.expect("a watch event in time").expect("an open watch");
        // Progress without events is allowed at any time.
        if !matches!(&item, Ok(events) if events.events.is_empty()) {
            return item;
        }
    }
}

/// A key keeps its create revision through puts and gets a new one after deletion.
pub async fn revisions_tell_creation_and_change(store: Arc<dyn MetaStore>, prefix: &str) {
    let key = format!("{prefix}a");
    assert_eq!(store.get(&key).await.expect("get"), None);
    let first = put(&*store, &key, "1").await;
    let second = put(&*store, &key, "2").await;
    let item = store.get(&key).await.expect("get").expect("the key");
    assert_eq!((item.value.as_ref(), item.create_revision, item.mod_revision), (b"2".as_slice(), first, second));
    store.txn(Txn { when: vec![], then: vec![Op::Delete { key: key.clone() }] }).await.expect("delete");
    let third = put(&*store, &key, "3").await;
    assert_eq!(store.get(&key).await.expect("get").expect("the key").create_revision, third, "re-creation is creation");
}

/// A listing has all keys under the prefix in order, also beyond one page, and none beside it.
pub async fn lists_are_ordered_and_whole(store: Arc<dyn MetaStore>, prefix: &str) {
    let keys: Vec<String> = (0..1_300).map(|i| format!("{prefix}k{i:05}")).collect();
    for chunk in keys.chunks(MAX_TXN_OPS) {
        let then = chunk.iter().map(|key| Op::put(key.clone(), Bytes::new())).collect();
        store.txn(Txn { when: vec![], then }).await.expect("put many");
    }
    put(&*store, &format!("{}z", prefix.trim_end_matches('/')), "beside").await;
    let listing = store.list(prefix).await.expect("list");
    let listed: Vec<&str> = listing.items.iter().map(|item| item.key.as_str()).collect();
    assert_eq!(listed, keys.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(listing.items.iter().all(|item| item.mod_revision <= listing.revision), "a listing shows one revision");
    let then = vec![Op::DeletePrefix { prefix: prefix.to_owned() }];
    store.txn(Txn { when: vec![], then }).await.expect("delete all");
    assert!(store.list(prefix).await.expect("list").items.is_empty());
}

/// Operations happen together, exactly when all conditions hold.
pub async fn transactions_are_all_or_nothing(store: Arc<dyn MetaStore>, prefix: &str) {
    let (a, b) = (format!("{prefix}a"), format!("{prefix}b"));
    let revision = put(&*store, &a, "1").await;
    let item = store.get(&a).await.expect("get").expect("the key");
    let cases = [
        (Compare::Absent(a.clone()), false),
        (Compare::Absent(b.clone()), true),
        (Compare::Modified(a.clone(), revision), true),
        (Compare::Modified(a.clone(), revision + 1), false),
        (Compare::Created(a.clone(), item.create_revision), true),
        (Compare::Created(a.clone(), item.create_revision + 1), false),
        (Compare::Created(b.clone(), 1), false),
    ];
    for (compare, holds) in cases {
        let txn = Txn { when: vec![compare.clone()], then: vec![Op::put(b.clone(), "x")] };
        let outcome = store.txn(txn).await.expect("txn");
        assert_eq!(outcome.applied, holds, "{compare:?}");
        assert_eq!(store.get(&b).await.expect("get").is_some(), holds, "{compare:?}");
        store.txn(Txn { when: vec![], then: vec![Op::Delete { key: b.clone() }] }).await.expect("delete");
    }
    let when = vec![Compare::Absent(b.clone()), Compare::Absent(a)];
    let outcome = store.txn(Txn { when, then: vec![Op::put(b.clone(), "x")] }).await.expect("txn");
    assert!(!outcome.applied, "one failed condition is enough");
    let then = (0..=MAX_TXN_OPS).map(|i| Op::put(format!("{prefix}n{i}"), "x")).collect();
    let refused = store.txn(Txn { when: vec![], then }).await;
    assert!(matches!(refused, Err(MetaError::Refused(_))), "too many operations are refused: {refused:?}");
}

/// A leader whose key was deleted and made again by another can no longer write.
pub async fn leader_writes_are_fenced(store: Arc<dyn MetaStore>, prefix: &str) {
    let (leader, data) = (format!("{prefix}leader"), format!("{prefix}data"));
    let mine = put(&*store, &leader, "me").await;
    let write =
        |term: i64| Txn { when: vec![Compare::Created(leader.clone(), term)], then: vec![Op::put(data.clone(), "x")] };
    assert!(store.txn(write(mine)).await.expect("txn").applied);
    store.txn(Txn { when: vec![], then: vec![Op::Delete { key: leader.clone() }] }).await.expect("delete");
    assert!(!store.txn(write(mine)).await.expect("txn").applied, "nobody leads");
    let other = put(&*store, &leader, "other").await;
    assert!(!store.txn(write(mine)).await.expect("txn").applied, "another leads");
    assert!(store.txn(write(other)).await.expect("txn").applied);
}

/// Read, compare and put from many tasks at once loses no increment.
pub async fn counters_lose_nothing(store: Arc<dyn MetaStore>, prefix: &str) {
    let key = format!("{prefix}n");
    put(&*store, &key, "0").await;
    let tasks = (0..4).map(|_| {
        let (store, key) = (store.clone(), key.clone());
        tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let item = store.get(&key).await.expect("get").expect("the counter");
                let n: u32 = std::str::from_utf8(&item.value).expect("text").parse().expect("a number");
                let when = vec![Compare::Modified(key.clone(), item.mod_revision)];
                let txn = Txn { when, then: vec![Op::put(key.clone(), (n + 1).to_string())] };
                done += u32::from(store.txn(txn).await.expect("txn").applied);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a counting task");
    }
    assert_eq!(store.get(&key).await.expect("get").expect("the counter").value.as_ref(), b"40");
}

async fn put_leased(store: &dyn MetaStore, key: &str, lease: i64) -> Result<i64, MetaError> {
    let put = Op::Put { key: key.to_owned(), value: Bytes::from_static(b"x"), lease };
    Ok(store.txn(Txn { when: vec![], then: vec![put] }).await?.revision)
}

/// Keys of a lease vanish when it is revoked and when it expires; then it does not exist.
pub async fn leases_take_their_keys_with_them(store: Arc<dyn MetaStore>, prefix: &str) {
    for revoke in [true, false] {
        let lease = store.grant(TTL).await.expect("a lease");
        let key = format!("{prefix}{revoke}");
        let revision = put_leased(&*store, &key, lease).await.expect("put");
        assert_eq!(store.get(&key).await.expect("get").expect("the key").lease, lease);
        let mut watch = store.watch(prefix, revision + 1);
        if revoke {
            store.revoke(lease).await.expect("revoke");
        }
        let events = next(&mut watch).await.expect("events");
        assert!(matches!(&events.events[..], [Event::Delete { key: gone, .. }] if *gone == key), "{events:?}");
        assert_eq!(store.get(&key).await.expect("get"), None);
        assert_eq!(store.keep_alive(lease).await, Err(MetaError::NoLease(lease)));
        assert!(
            matches!(put_leased(&*store, &key, lease).await, Err(MetaError::NoLease(_))),
            "nothing binds to a gone lease"
        );
    }
}

/// A renewed lease lives longer than it was granted for.
pub async fn a_kept_lease_outlives_its_ttl(store: Arc<dyn MetaStore>, prefix: &str) {
    let (kept, left) = (store.grant(TTL).await.expect("a lease"), store.grant(TTL).await.expect("a lease"));
    put_leased(&*store, &format!("{prefix}kept"), kept).await.expect("put");
    // Others may write in between.
    let revision = put_leased(&*store, &format!("{prefix}left"), left).await.expect("put");
    let mut watch = store.watch(prefix, revision + 1);
    let expiry = next(&mut watch);
    tokio::pin!(expiry);
    // Renews until the other lease, of the same age and TTL, has expired.
    let events = loop {
        tokio::select! {
            events = &mut expiry => break events.expect("events"),
            () = tokio::time::sleep(TTL / 4) => {
                assert!(!store.keep_alive(kept).await.expect("renewed").is_zero());
            }
        }
    };
    assert!(matches!(&events.events[..], [Event::Delete { key, .. }] if key.ends_with("left")), "{events:?}");
    assert!(store.get(&format!("{prefix}kept")).await.expect("get").is_some(), "the renewed lease lives");
    store.revoke(kept).await.expect("revoke");
}

/// A watch shows what happened since a revision, then what happens; a transaction's changes come together.
pub async fn watches_replay_and_follow(store: Arc<dyn MetaStore>, prefix: &str) {
    let first = put(&*store, &format!("{prefix}a"), "1").await;
    put(&*store, &format!("{prefix}a"), "2").await;
    let mut watch = store.watch(prefix, first);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(next(&mut watch).await.expect("events").events);
    }
    let values: Vec<&[u8]> =
        seen.iter().map(|event| if let Event::Put(item) = event { item.value.as_ref() } else { b"deleted" }).collect();
    assert_eq!(values, [b"1", b"2"], "the past is replayed in order");
    let then = vec![Op::put(format!("{prefix}b"), "3"), Op::Delete { key: format!("{prefix}a") }];
    let revision = store.txn(Txn { when: vec![], then }).await.expect("txn").revision;
    let events = next(&mut watch).await.expect("events");
    assert_eq!((events.events.len(), events.revision), (2, revision), "a transaction's changes come together");
    put(&*store, &format!("{}-beside", prefix.trim_end_matches('/')), "x").await;
    let revision = put(&*store, &format!("{prefix}c"), "4").await;
    assert_eq!(next(&mut watch).await.expect("events").revision, revision, "keys beside the prefix are not seen");
}

/// A watch from a forgotten revision ends with `Compacted`, so that the watcher lists anew.
pub async fn compacted_watches_say_so(store: Arc<dyn MetaStore>, prefix: &str) {
    let first = put(&*store, &format!("{prefix}a"), "1").await;
    let last = put(&*store, &format!("{prefix}a"), "2").await;
    store.compact(last).await.expect("compact");
    let mut watch = store.watch(prefix, first);
    let end = next(&mut watch).await;
    assert!(matches!(end, Err(MetaError::Compacted(_))), "{end:?}");
    assert!(tokio::time::timeout(PATIENCE, watch.next()).await.expect("an end").is_none(), "an error ends the watch");
}
