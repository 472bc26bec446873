use windrow_ports::meta::KeyValue;
use windrow_protocol::Timestamp;
use windrow_protocol::state::keys;

use super::*;
use crate::fixture;
use crate::view::encode;

#[tokio::test]
async fn a_job_that_is_paused_is_due_at_no_time() {
    let (_folder, parts) = fixture::parts();
    let name = JobName::new("j").unwrap();
    let spec = r#"{"source": {"topic": "t"}, "window": {"every": "day"}, "map": "SELECT 1"}"#;
    let record = JobRecord::new(name.clone(), serde_json::from_str(spec).unwrap(), Timestamp::MIN);
    let mut view = View::default();
    let value = encode(&JobRecord { paused: Some("harvest".to_owned()), ..record }).into();
    view.put(&KeyValue { key: keys::job(&name), value, create_revision: 1, mod_revision: 1, lease: 0 });
    let (mut looks, idle) = (Looks::default(), Duration::from_secs(5));
    looks.again(name.clone(), Duration::ZERO);
    looks.watched.insert(name.clone(), Some(Watched::default()));
    looks.begin(&parts, &view, 10);
    assert_eq!(looks.next_due(idle), idle, "a time that has passed would keep the leader from ever sleeping");
}

#[tokio::test]
async fn of_more_jobs_than_are_looked_at_at_a_time_each_has_its_turn() {
    let (_folder, parts) = fixture::parts();
    let spec = r#"{"source": {"topic": "t"}, "window": {"every": "day"}, "map": "SELECT 1"}"#;
    let mut view = View::default();
    for i in 0..2 * MOST + 2 {
        let name = JobName::new(format!("j{i:03}")).unwrap();
        let value = JobRecord::new(name.clone(), serde_json::from_str(spec).unwrap(), Timestamp::MIN);
        let value = encode(&value).into();
        view.put(&KeyValue { key: keys::job(&name), value, create_revision: 1, mod_revision: 1, lease: 0 });
    }
    let (mut looks, mut seen) = (Looks::default(), std::collections::BTreeSet::new());
    for _ in 0..3 * MOST {
        looks.begin(&parts, &view, 10);
        let (name, _) = looks.next().await;
        // As with a backlog: due again at once.
        looks.again(name.clone(), parts.clock.elapsed());
        seen.insert(name);
    }
    assert_eq!(seen.len(), 2 * MOST + 2);
}
