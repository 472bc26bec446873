use tonic::{Code, Request};
use windrow_ports::log::NewTopic;
use windrow_ports::meta::{Compare, Op, Txn};
use windrow_protocol::cut::Cursor;
use windrow_protocol::plan::{BatchId, Part};
use windrow_protocol::state::{BatchRecord, BatchState, Progress, Task};
use windrow_protocol::volume::{Seen, Waiting};
use windrow_protocol::{JobSpec, Offset, PartitionId, Revision, Timestamp, TopicId, TopicName, WindowId};
use windrow_wire::convert;
use windrow_wire::v1::job_service_server::JobService;
use windrow_wire::v1::window_service_server::WindowService;

use super::*;
use crate::fixture;

const SPEC: &str = r#"{"source": {"topic": "traffic", "values": {"speed": "f64"}}, "window": {"every": "1h"},
    "map": "SELECT device, count(*) AS n FROM readings GROUP BY device"}"#;

fn api() -> (tempfile::TempDir, Api) {
    let (folder, parts) = fixture::parts();
    (folder, Api { parts, cluster: v1::Cluster::default(), stop: CancellationToken::new() })
}

fn job(name: &str) -> v1::Job {
    let spec: JobSpec = serde_json::from_str(SPEC).unwrap();
    v1::Job { name: format!("jobs/{name}"), spec: Some(convert::spec(&spec)), ..Default::default() }
}

async fn create(api: &Api, job: v1::Job, request_id: &str) -> Result<v1::CreateJobResponse, Status> {
    let request = v1::CreateJobRequest { job: Some(job), request_id: request_id.to_owned(), validate_only: false };
    api.create_job(Request::new(request)).await.map(tonic::Response::into_inner)
}

/// A parked batch of an hour, by a spec that nobody knows.
fn parked(job: &JobName, start: Timestamp, partition: i32) -> Op {
    parked_revision(job, start, partition, 0, "old")
}

fn parked_revision(job: &JobName, start: Timestamp, partition: i32, revision: u32, spec: &str) -> Op {
    let plan = serde_json::json!({
        "topic": "traffic", "topicId": "i", "partition": partition, "revision": revision, "specHash": spec, "generation": 1,
        "window": {"start": start, "end": start.plus_micros(3_600_000_000)}, "sealedBy": "watermark",
        "read": {"start": 0, "end": 1}, "owned": {"start": 0, "end": 1},
    });
    let (window, part) = (WindowId::Time(start), Part::Partition(PartitionId(partition)));
    let id = BatchId { job: job.clone(), window, part, revision: Revision(revision) };
    let batch = BatchRecord::new(id, Task::Map(serde_json::from_value(plan).unwrap()));
    Op::put(keys::batch(job, window, part), encode(&BatchRecord { state: BatchState::Failed, ..batch }))
}

#[tokio::test]
async fn a_create_sent_twice_makes_one_job_and_another_one_is_refused() {
    let (_folder, api) = api();
    let made = create(&api, job("a"), "id-1").await.unwrap();
    assert!(made.warnings[0].contains("does not exist yet"), "{:?}", made.warnings);
    assert_eq!(create(&api, job("a"), "id-1").await.unwrap().job, made.job);
    assert_eq!(create(&api, job("a"), "id-2").await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn a_wrong_job_is_refused_with_the_place_and_nothing_is_stored() {
    let (_folder, api) = api();
    let mut wrong = job("a");
    wrong.spec.as_mut().unwrap().map = "SELECT sped FROM readings".to_owned();
    let error = create(&api, wrong, "").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("spec.map (SQL line 1, column 8)"), "{}", error.message());
    let get = api.get_job(Request::new(v1::GetJobRequest { name: "jobs/a".to_owned() })).await;
    assert_eq!(get.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_update_with_an_old_etag_or_another_window_is_refused() {
    let (_folder, api) = api();
    let topic = TopicName::new("traffic").unwrap();
    let new = NewTopic { name: topic, partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    api.parts.log.create_topic(&new).await.unwrap();
    let made = create(&api, job("a"), "").await.unwrap().job.unwrap();
    let update = |job: v1::Job| {
        let request = v1::UpdateJobRequest { job: Some(job), validate_only: false };
        api.update_job(Request::new(request))
    };
    let mut changed = made.clone();
    changed.spec.as_mut().unwrap().map = "SELECT count(*) AS n FROM readings".to_owned();
    let updated = update(changed.clone()).await.unwrap().into_inner().job.unwrap();
    assert_eq!(updated.generation, 2);
    assert_eq!(update(changed).await.unwrap_err().code(), Code::Aborted, "the etag is the old one");
    let mut moved = updated;
    moved.spec.as_mut().unwrap().window.as_mut().unwrap().every = "15m".to_owned();
    assert_eq!(update(moved).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn pause_is_kept_with_its_note_and_lists_come_in_pages() {
    let (_folder, api) = api();
    for name in ["a", "b", "c"] {
        create(&api, job(name), "").await.unwrap();
    }
    let pause = v1::PauseJobRequest { name: "jobs/b".to_owned(), note: "harvest".to_owned(), validate_only: false };
    let paused = api.pause_job(Request::new(pause)).await.unwrap().into_inner().job.unwrap();
    assert_eq!((paused.state(), paused.status.unwrap().pause_note.as_str()), (v1::JobState::Paused, "harvest"));
    let list = |page_token: &str| {
        let request = v1::ListJobsRequest { page_size: 2, page_token: page_token.to_owned() };
        api.list_jobs(Request::new(request))
    };
    let first = list("").await.unwrap().into_inner();
    let second = list(&first.next_page_token).await.unwrap().into_inner();
    let names: Vec<_> = first.jobs.iter().chain(&second.jobs).map(|job| job.name.clone()).collect();
    assert_eq!(names, ["jobs/a", "jobs/b", "jobs/c"]);
    assert_eq!(second.next_page_token, "");
}

fn violations(status: &Status) -> Vec<(String, String)> {
    windrow_wire::status::violations(status).into_iter().map(|v| (v.path, v.reason)).collect()
}

#[tokio::test]
async fn each_mistake_comes_back_with_path_and_reason_and_nothing_is_stored() {
    let (_folder, api) = api();
    type Change = fn(&mut v1::JobSpec);
    let mistakes: [(Change, &str, &str); 6] = [
        (
            |spec| spec.window.as_mut().unwrap().time_zone = "Mars/Olympus".into(),
            "spec.window.timeZone",
            "UNKNOWN_TIME_ZONE",
        ),
        (|spec| spec.lateness = "1s".into(), "spec.lateness", "LATENESS_TOO_SHORT"),
        (|spec| spec.map = "SELECT sped FROM readings".into(), "spec.map", "UNKNOWN_COLUMN"),
        (|spec| spec.map = "COPY readings TO 'x'".into(), "spec.map", "NOT_A_QUERY"),
        (|spec| spec.late = "sidee".into(), "spec.late", "UNKNOWN_VALUE"),
        (|spec| spec.idle_timeout = "soon".into(), "spec.idleTimeout", "INVALID_VALUE"),
    ];
    for (change, path, reason) in mistakes {
        let mut wrong = job("a");
        change(wrong.spec.as_mut().unwrap());
        let expected = vec![(path.to_owned(), reason.to_owned())];
        let refused = create(&api, wrong.clone(), "").await.unwrap_err();
        assert_eq!(violations(&refused), expected);
        assert_eq!(windrow_wire::status::reason(&refused), reason);
        let checks = api.validate_job(Request::new(v1::ValidateJobRequest { job: Some(wrong) })).await.unwrap();
        let found = checks.into_inner().checks.into_iter().flat_map(|check| check.violations);
        assert_eq!(found.map(|v| (v.path, v.reason)).collect::<Vec<_>>(), expected);
        let get = api.get_job(Request::new(v1::GetJobRequest { name: "jobs/a".to_owned() })).await;
        assert_eq!(get.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_negative_page_size_is_refused_in_every_list() {
    let (_folder, api) = api();
    create(&api, job("a"), "").await.unwrap();
    let parent = "jobs/a".to_owned();
    let jobs = v1::ListJobsRequest { page_size: -1, ..Default::default() };
    let windows = v1::ListWindowsRequest { page_size: -1, parent: parent.clone(), ..Default::default() };
    let partitions = v1::ListPartitionsRequest { page_size: -1, parent, ..Default::default() };
    for status in [
        api.list_jobs(Request::new(jobs)).await.unwrap_err(),
        api.list_windows(Request::new(windows)).await.unwrap_err(),
        api.list_partitions(Request::new(partitions)).await.unwrap_err(),
    ] {
        assert_eq!(violations(&status), [("page_size".to_owned(), "OUT_OF_RANGE".to_owned())]);
    }
}

#[tokio::test]
async fn validate_only_fails_where_the_real_call_would_and_changes_nothing() {
    let (_folder, api) = api();
    let dry = |job: v1::Job| {
        let request = v1::CreateJobRequest { job: Some(job), request_id: String::new(), validate_only: true };
        api.create_job(Request::new(request))
    };
    dry(job("a")).await.unwrap();
    let get = || api.get_job(Request::new(v1::GetJobRequest { name: "jobs/a".to_owned() }));
    assert_eq!(get().await.unwrap_err().code(), Code::NotFound);
    let name = || "jobs/a".to_owned();
    let delete = |validate_only| api.delete_job(Request::new(v1::DeleteJobRequest { name: name(), validate_only }));
    assert_eq!(delete(true).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(delete(false).await.unwrap_err().code(), Code::NotFound);

    create(&api, job("a"), "").await.unwrap();
    let before = get().await.unwrap().into_inner().job;
    assert_eq!(dry(job("a")).await.unwrap_err().code(), Code::AlreadyExists);
    let mut moved = job("a");
    moved.spec.as_mut().unwrap().window.as_mut().unwrap().every = "15m".to_owned();
    let update = v1::UpdateJobRequest { job: Some(moved), validate_only: true };
    assert_eq!(api.update_job(Request::new(update)).await.unwrap_err().code(), Code::FailedPrecondition);
    let pause = v1::PauseJobRequest { name: name(), note: String::new(), validate_only: true };
    api.pause_job(Request::new(pause)).await.unwrap();
    api.resume_job(Request::new(v1::ResumeJobRequest { name: name(), validate_only: true })).await.unwrap();
    delete(true).await.unwrap();
    assert_eq!(get().await.unwrap().into_inner().job, before);
}

#[tokio::test]
async fn a_job_that_is_being_deleted_takes_no_changes() {
    let (_folder, api) = api();
    create(&api, job("a"), "").await.unwrap();
    let name = || "jobs/a".to_owned();
    api.delete_job(Request::new(v1::DeleteJobRequest { name: name(), validate_only: false })).await.unwrap();
    let pause = v1::PauseJobRequest { name: name(), note: String::new(), validate_only: false };
    let refused = api.pause_job(Request::new(pause)).await.unwrap_err();
    assert_eq!(
        (refused.code(), windrow_wire::status::reason(&refused)),
        (Code::FailedPrecondition, "JOB_DELETING".into())
    );
    let again = create(&api, job("a"), "").await.unwrap_err();
    assert!(again.message().contains("is being deleted"), "{}", again.message());
}

#[tokio::test]
async fn partitions_show_what_the_log_holds_in_the_order_of_their_numbers() {
    let (_folder, api) = api();
    create(&api, job("a"), "").await.unwrap();
    let list = |page_token: &str| {
        let request =
            v1::ListPartitionsRequest { parent: "jobs/a".to_owned(), page_size: 8, page_token: page_token.to_owned() };
        api.list_partitions(Request::new(request))
    };
    assert_eq!(list("").await.unwrap().into_inner().partitions, [], "the topic does not exist yet");
    let name = TopicName::new("traffic").unwrap();
    let new = NewTopic { name, partitions: 12, replication: 1, retention_ms: None, max_ahead_ms: None };
    api.parts.log.create_topic(&new).await.unwrap();
    let first = list("").await.unwrap().into_inner();
    let second = list(&first.next_page_token).await.unwrap().into_inner();
    let all: Vec<_> = first.partitions.into_iter().chain(second.partitions).collect();
    let names: Vec<_> = all.iter().map(|partition| partition.name.clone()).collect();
    assert_eq!(names, (0..12).map(|n| format!("jobs/a/partitions/{n}")).collect::<Vec<_>>());
    assert_eq!((all[0].log_start_offset, all[0].high_watermark, all[0].sealed_end_offset), (Some(0), Some(0), None));
}

#[tokio::test]
async fn open_windows_of_volume_come_in_pages_by_partition_and_say_how_full_they_are() {
    use crate::dispatch::volume::tests::open_window;
    let (_folder, api) = api();
    let mut of_volume = job("j");
    let window = v1::WindowSpec { every: "volume".to_owned(), readings: Some(100), ..Default::default() };
    of_volume.spec.as_mut().unwrap().window = Some(window);
    create(&api, of_volume, "").await.unwrap();
    for partition in [10, 2] {
        let seen = Seen { through: Offset(9), records: 2, amount: 40, times: None };
        let batch = open_window(PartitionId(partition), 7, Some(Waiting { seen, until: Some(Offset(12)) }));
        let key = keys::batch(&batch.id.job, batch.id.window, batch.id.part);
        let then = vec![windrow_ports::meta::Op::put(key, encode(&batch))];
        api.parts.meta.txn(windrow_ports::meta::Txn { when: vec![], then }).await.unwrap();
    }
    let list = |page_token: &str| {
        let request =
            v1::ListWindowsRequest { parent: "jobs/j".to_owned(), page_size: 1, page_token: page_token.to_owned() };
        api.list_windows(Request::new(request))
    };
    let first = list("").await.unwrap().into_inner();
    let second = list(&first.next_page_token).await.unwrap().into_inner();
    let all: Vec<_> = first.windows.iter().chain(&second.windows).collect();
    let names: Vec<_> = all.iter().map(|window| window.name.as_str()).collect();
    assert_eq!(names, ["jobs/j/windows/p2-o7", "jobs/j/windows/p10-o7"]);
    assert_eq!((&all[0].start_time, &all[0].end_time), (&None, &None), "nobody knows yet");
    let batch = &all[0].batches[0];
    assert_eq!((batch.start_offset, batch.end_offset), (7, 9));
    assert_eq!(batch.volume, Some(v1::Volume { amount: 40, wanted: 100, unit: "readings".to_owned() }));
    let get = api.get_job(Request::new(v1::GetJobRequest { name: "jobs/j".to_owned() })).await.unwrap();
    assert_eq!(get.into_inner().job.unwrap().status.unwrap().complete_through, None);
}

#[tokio::test]
async fn a_watch_ends_with_the_server() {
    use futures::StreamExt;
    let (_folder, api) = api();
    create(&api, job("a"), "").await.unwrap();
    let watch = v1::WatchJobRequest { name: "jobs/a".to_owned() };
    let mut changes = api.watch_job(Request::new(watch)).await.unwrap().into_inner();
    assert_eq!(changes.next().await.unwrap().unwrap().job.unwrap().name, "jobs/a");
    api.stop.cancel();
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn all_parked_batches_of_a_wide_window_take_the_new_spec_in_one_write() {
    let (_folder, api) = api();
    create(&api, job("a"), "").await.unwrap();
    let name = JobName::new("a").unwrap();
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let window = WindowId::Time(start);
    let put = (0..100).map(|partition| parked(&name, start, partition));
    api.parts.meta.txn(Txn { when: vec![], then: put.collect() }).await.unwrap();
    let request = v1::RetryWindowRequest { name: format!("jobs/a/windows/{window}"), validate_only: false };
    assert_eq!(api.retry_window(Request::new(request)).await.unwrap().into_inner().batches, 100);
    let stored = api.parts.meta.list(&keys::batches(&name)).await.unwrap();
    let old = stored.items.iter().filter(|item| String::from_utf8_lossy(&item.value).contains("\"old\"")).count();
    assert_eq!(old, 0, "or a window would be computed by two specs");
}

#[tokio::test]
async fn all_parked_batches_of_a_very_wide_window_are_tried_again_or_given_up_at_once() {
    let (_folder, api) = api();
    create(&api, job("a"), "").await.unwrap();
    let name = JobName::new("a").unwrap();
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let put: Vec<Op> = (0..300).map(|partition| parked(&name, start, partition)).collect();
    for chunk in put.chunks(100) {
        api.parts.meta.txn(Txn { when: vec![], then: chunk.to_vec() }).await.unwrap();
    }
    let window = format!("jobs/a/windows/{}", WindowId::Time(start));
    let skip = v1::SkipWindowRequest { name: window, reason: "storm".to_owned(), validate_only: false };
    assert_eq!(api.skip_window(Request::new(skip)).await.unwrap().into_inner().batches, 300);
    let stored = api.parts.meta.list(&keys::batches(&name)).await.unwrap();
    assert!(stored.items.iter().all(|item| String::from_utf8_lossy(&item.value).contains("storm")));
}

/// A leader may be looking at the job while its parked batches get the new spec: what it plans of the same window after
/// that, by the spec of before, and what it has planned since the window was looked at, must not stand beside them.
#[tokio::test]
async fn a_window_that_is_planned_in_part_is_of_one_spec_though_a_leader_plans_more_of_it_meanwhile() {
    let (_folder, api) = api();
    create(&api, job("a"), "").await.unwrap();
    let name = JobName::new("a").unwrap();
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let window = WindowId::Time(start);
    let cursor = encode(&Cursor::of_volume(TopicId::new("i").unwrap(), Offset(0)));
    let cursors = (0..2).map(|partition| Op::put(keys::cursor(&name, PartitionId(partition)), cursor.clone()));
    let then = cursors.chain([parked(&name, start, 0)]).collect();
    api.parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
    let seen = api.job(&name).await.unwrap();
    let by_the_old_spec =
        Txn { when: vec![Compare::Modified(keys::job(&name), seen.revision)], then: vec![parked(&name, start, 1)] };

    // Planned before the retry is written: it is not.
    let batch =
        api.parts.meta.get(&keys::batch(&name, window, Part::Partition(PartitionId(0)))).await.unwrap().unwrap();
    let batch = Versioned { value: serde_json::from_slice(&batch.value).unwrap(), revision: batch.mod_revision };
    let fence = api.fence(&seen, &[batch]).await.unwrap();
    assert!(api.parts.meta.txn(by_the_old_spec.clone()).await.unwrap().applied);
    assert!(!api.parts.meta.txn(fence).await.unwrap().applied);

    // Planned after it: that is not.
    let gone = vec![Op::Delete { key: keys::batch(&name, window, Part::Partition(PartitionId(1))) }];
    api.parts.meta.txn(Txn { when: vec![], then: gone }).await.unwrap();
    let request = v1::RetryWindowRequest { name: format!("jobs/a/windows/{window}"), validate_only: false };
    assert_eq!(api.retry_window(Request::new(request)).await.unwrap().into_inner().batches, 1);
    assert!(!api.parts.meta.txn(by_the_old_spec).await.unwrap().applied);
}

#[tokio::test]
async fn a_job_does_not_amend_farther_back_than_to_the_windows_that_are_left() {
    let (_folder, api) = api();
    let name = JobName::new("a").unwrap();
    let amends = |reach: &str, retention: &str| {
        let with =
            format!(r#""late": "amend", "amendReach": "{reach}", "output": {{"retention": "{retention}"}}, "map""#);
        let spec: JobSpec = serde_json::from_str(&SPEC.replace("\"map\"", &with)).unwrap();
        v1::Job { name: "jobs/a".to_owned(), spec: Some(convert::spec(&spec)), ..Default::default() }
    };
    let update = async |job: v1::Job| {
        let request = v1::UpdateJobRequest { job: Some(job), validate_only: false };
        api.update_job(Request::new(request)).await.map_err(|error| error.message().to_owned())
    };
    create(&api, amends("1d", "2d"), "").await.unwrap();
    let day = |n: i64| "2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap().plus_micros(n * 86_400_000_000);
    let progress = Progress { origin: day(0), finish_planned_through: day(10), windows_complete: 240 };
    let then = vec![Op::put(keys::progress(&name), encode(&progress))];
    api.parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
    update(amends("9d", "30d")).await.expect("nothing has gone");
    update(amends("1d", "2d")).await.expect("a shorter reach");
    let then = vec![Op::put(keys::retired(&name), encode(&Some(day(7))))];
    api.parts.meta.txn(Txn { when: vec![], then }).await.unwrap();

    let refused = update(amends("3d", "30d")).await.unwrap_err();
    assert!(refused.contains("amendReach 3d") && refused.contains("2026-03-08T00:00:00Z"), "{refused}");
    update(amends("71h", "30d")).await.expect("just not back to them");
    // A batch of day 9 is still there, and may be tried again by the new rule.
    api.parts.meta.txn(Txn { when: vec![], then: vec![parked(&name, day(9), 0)] }).await.unwrap();
    update(amends("1d", "2d")).await.unwrap();
    assert!(update(amends("2d", "30d")).await.unwrap_err().contains("starts at 2026-03-10T00:00:00Z"));
}

#[tokio::test]
async fn a_revision_is_tried_again_by_a_changed_map_but_not_by_a_job_that_has_got_a_reduce() {
    let (_folder, api) = api();
    let made = create(&api, job("a"), "").await.unwrap().job.unwrap();
    let (name, start) = (JobName::new("a").unwrap(), "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    let planned = serde_json::from_str::<JobSpec>(SPEC).unwrap().hash();
    let changed = async |map: &str, reduce: Option<&str>| {
        let then = vec![parked_revision(&name, start, 0, 1, &planned)];
        api.parts.meta.txn(Txn { when: vec![], then }).await.unwrap();
        let mut job = v1::Job { etag: String::new(), ..made.clone() };
        let spec = job.spec.as_mut().unwrap();
        (spec.map, spec.reduce) = (map.to_owned(), reduce.map(str::to_owned));
        let request = v1::UpdateJobRequest { job: Some(job), validate_only: false };
        api.update_job(Request::new(request)).await.unwrap();
        let name_of = format!("jobs/a/windows/{}", WindowId::Time(start));
        let request = v1::RetryWindowRequest { name: name_of, validate_only: false };
        let v1::RetryWindowResponse { batches, note } =
            api.retry_window(Request::new(request)).await.unwrap().into_inner();
        let key = keys::batch(&name, WindowId::Time(start), Part::Partition(PartitionId(0)));
        let stored = api.parts.meta.get(&key).await.unwrap().unwrap();
        let stored: BatchRecord = serde_json::from_slice(&stored.value).unwrap();
        assert_eq!((batches, &stored.state), (1, &BatchState::Pending));
        (stored.task.spec_hash() == planned, note)
    };
    let map = "SELECT device, max(speed) AS n FROM readings GROUP BY device";
    assert_eq!(changed(map, None).await, (false, String::new()));
    let (is_as_planned, note) = changed(map, Some("SELECT max(n) AS n FROM parts")).await;
    assert!(is_as_planned && note.contains("the job as it was when they were planned"), "{note}");
}
