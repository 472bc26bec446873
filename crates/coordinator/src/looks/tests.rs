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
