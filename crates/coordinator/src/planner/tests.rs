use windrow_ports::log::{Append, NewTopic};
use windrow_protocol::JobName;
use windrow_protocol::state::keys;

use super::*;
use crate::fixture::{self, Call, Deaf};

fn daily() -> JobRecord {
    let spec = r#"{"source": {"topic": "t"}, "window": {"every": "day"}, "map": "SELECT 1"}"#;
    JobRecord::new(JobName::new("j").unwrap(), serde_json::from_str(spec).unwrap(), Timestamp::MIN)
}

async fn append(parts: &Parts, partition: i32, times: &[Timestamp]) {
    let record = |timestamp: &Timestamp| Append { timestamp: *timestamp, key: None, payload: "x".into() };
    let topic = TopicName::new("t").unwrap();
    parts.log.append(&topic, PartitionId(partition), times.iter().map(record).collect()).await.unwrap();
}

/// A topic of so many partitions, looked at for a job that has these cursors.
async fn site<'a>(parts: &'a Parts, job: &'a JobRecord, partitions: i32, cursors: Cursors) -> Site<'a> {
    let name = TopicName::new("t").unwrap();
    let new = NewTopic { name: name.clone(), partitions, replication: 1, retention_ms: None, max_ahead_ms: None };
    parts.log.create_topic(&new).await.unwrap();
    let topic = parts.log.topic(&name).await.unwrap();
    Site { parts, job, topic, cursors, progress: None, in_flight: InFlight::default(), max_in_flight: 1_000 }
}

fn of_time(job: &JobRecord) -> Windows {
    Windows::OfTime { calendar: job.spec.window.calendar().unwrap(), pinned: BTreeMap::new() }
}

/// A job over a topic of one partition whose records have these timestamps, cut until there is nothing to cut.
async fn cut_all(times: &[Timestamp]) -> Cursor {
    let (_folder, parts) = fixture::parts();
    let job = daily();
    let mut site = site(&parts, &job, 1, BTreeMap::new()).await;
    append(&parts, 0, times).await;
    let cursor_key = keys::cursor(&job.name, PartitionId(0));
    for revision in 0..100 {
        let writes = step(&site, of_time(&job), &mut Silence::default()).await.unwrap().writes;
        let Some(write) = writes.first() else { return site.cursors[&PartitionId(0)].value.clone() };
        let cursor = write.then.iter().find_map(|op| match op {
            Op::Put { key, value, .. } if *key == cursor_key => serde_json::from_slice(value).ok(),
            _ => None,
        });
        site.cursors.insert(PartitionId(0), Versioned { value: cursor.unwrap(), revision });
    }
    panic!("it is cut on and on, at {:?}", site.cursors)
}

#[tokio::test]
async fn a_record_at_the_end_of_the_calendar_does_not_keep_the_coordinator_cutting_for_ever() {
    // As of a producer that counts microseconds where the log counts milliseconds.
    let poison = Timestamp::from_millis(1_767_225_600_000_000);
    assert_eq!(poison, Timestamp::MAX);
    let day = |day: i64| Timestamp::from_millis(day * 86_400_000 + 1);
    let cursor = cut_all(&[day(0), day(1), poison]).await;
    assert_eq!((cursor.sealed_through, cursor.end), (Timestamp::MAX, Offset(2)));
}

#[tokio::test]
async fn a_partition_that_does_not_answer_keeps_no_other_waiting() {
    let (_folder, mut parts) = fixture::parts();
    let log = Deaf::new(parts.log.clone());
    parts.log = log.clone();
    let job = daily();
    let site = site(&parts, &job, 2, BTreeMap::new()).await;
    append(&parts, 0, &[Timestamp::from_millis(0)]).await;
    append(&parts, 1, &[Timestamp::from_millis(0)]).await;
    log.to.lock().unwrap().push((Call::Bounds, PartitionId(0)));
    let keys_of = |step: Step| step.writes.into_iter().flat_map(|write| write.when).collect::<Vec<_>>();
    let found = keys_of(step(&site, of_time(&job), &mut Silence::default()).await.unwrap());
    let absent = [keys::cursor(&job.name, PartitionId(1)), keys::progress(&job.name)].map(Compare::Absent);
    assert_eq!(found, absent);
    log.to.lock().unwrap().push((Call::Bounds, PartitionId(1)));
    let away = step(&site, of_time(&job), &mut Silence::default()).await;
    assert!(matches!(away, Err(TickError::Log(LogError::Unavailable(_)))), "{away:?}");
}

#[tokio::test]
async fn a_log_that_ends_before_what_is_planned_is_the_jobs_problem_until_it_is_that_long_again() {
    let (_folder, parts) = fixture::parts();
    let job = daily();
    let mut site = site(&parts, &job, 1, BTreeMap::new()).await;
    append(&parts, 0, &[Timestamp::from_millis(0); 3]).await;
    for (end, is_lost) in [(2, false), (3, false), (4, true)] {
        let cursor = Cursor {
            topic_id: site.topic.id.clone(),
            sealed_through: Timestamp::from_millis(0),
            end: Offset(end),
            next_start: Offset(end),
            pace: None,
        };
        site.cursors.insert(PartitionId(0), Versioned { value: cursor, revision: 1 });
        let problem = step(&site, of_time(&job), &mut Silence::default()).await.unwrap().problem;
        assert_eq!(problem.is_some(), is_lost, "{problem:?}");
        assert!(problem.is_none_or(|it| it.contains("ends at offset 3, but offsets up to 4 are planned")));
    }
}

#[tokio::test]
async fn a_record_of_a_time_to_come_is_the_jobs_problem_as_long_as_others_wait_behind_it() {
    let (_folder, parts) = fixture::parts();
    let job = daily();
    let mut site = site(&parts, &job, 1, BTreeMap::new()).await;
    let now = parts.clock.now();
    append(&parts, 0, &[now.plus_micros(-86_400_000_000), now.plus_micros(30 * 86_400_000_000), now]).await;
    let mut seen = Vec::new();
    for revision in 0..10 {
        let Step { writes, problem } = step(&site, of_time(&job), &mut Silence::default()).await.unwrap();
        seen.push(problem);
        let of_cursor = keys::cursor(&job.name, PartitionId(0));
        let cursor = writes.iter().flat_map(|write| &write.then).find_map(|op| match op {
            Op::Put { key, value, .. } if *key == of_cursor => serde_json::from_slice(value).ok(),
            _ => None,
        });
        let Some(value) = cursor else { break };
        site.cursors.insert(PartitionId(0), Versioned { value, revision });
    }
    assert_eq!(seen[0], None, "not before it is reached");
    let problem = seen.pop().unwrap().expect("what is behind it is in no window");
    assert!(problem.contains("a record at offset 1 or after it"), "{problem}");
    site.cursors.get_mut(&PartitionId(0)).unwrap().value.end = Offset(3);
    assert_eq!(step(&site, of_time(&job), &mut Silence::default()).await.unwrap().problem, None, "nothing waits");
}

#[tokio::test]
async fn a_job_that_parked_batches_hold_up_says_so_and_one_with_a_mere_backlog_does_not() {
    let (_folder, parts) = fixture::parts();
    let job = daily();
    let mut site = site(&parts, &job, 1, BTreeMap::new()).await;
    for (batches, failed, is_told) in [(1_000, 0, false), (999, 5, false), (1_000, 5, true)] {
        site.in_flight = InFlight { batches, failed, newest: None };
        let problem = step(&site, of_time(&job), &mut Silence::default()).await.unwrap().problem;
        assert_eq!(problem.is_some(), is_told, "{problem:?}");
        assert!(problem.is_none_or(|it| it.contains("windrow retry")));
    }
}
