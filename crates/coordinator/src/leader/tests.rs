use super::*;
use crate::fixture;

#[tokio::test]
async fn a_leader_that_is_told_to_stop_gives_its_place_up_at_once() {
    let (_folder, parts) = fixture::parts();
    let meta = parts.meta.clone();
    let seen = meta.list(keys::LEADER).await.unwrap().revision;
    let mut leads = meta.watch(keys::LEADER, seen + 1);
    let stop = CancellationToken::new();
    let lease_ttl = Duration::from_secs(3_600);
    let leading = tokio::spawn(run(parts, Settings { lease_ttl, ..Settings::default() }, stop.clone()));
    leads.next().await.unwrap().unwrap();
    stop.cancel();
    leading.await.unwrap();
    assert!(meta.get(keys::LEADER).await.unwrap().is_none(), "its lease would have kept the place for an hour");
}
