use std::sync::Arc;

use tonic::{Code, Request};
use windrow_embedded::Database;
use windrow_ports::SystemClock;
use windrow_ports::log::{Log, NewTopic};
use windrow_protocol::{JobSpec, TopicName};
use windrow_wire::convert;
use windrow_wire::v1::job_service_server::JobService;

use super::*;

const SPEC: &str = r#"{"source": {"topic": "traffic", "values": {"speed": "f64"}}, "window": {"every": "1h"},
    "map": "SELECT device, count(*) AS n FROM readings GROUP BY device"}"#;

fn api() -> (tempfile::TempDir, Database, Api) {
    let folder = tempfile::tempdir().unwrap();
    let db = Database::open(&folder.path().join("db")).unwrap();
    let parts = Parts { log: db.log(), meta: db.meta(), clock: Arc::new(SystemClock::default()) };
    (folder, db, Api { parts })
}

fn job(name: &str) -> v1::Job {
    let spec: JobSpec = serde_json::from_str(SPEC).unwrap();
    v1::Job { name: format!("jobs/{name}"), spec: Some(convert::spec(&spec)), ..Default::default() }
}

async fn create(api: &Api, job: v1::Job, request_id: &str) -> Result<v1::CreateJobResponse, Status> {
    let request = v1::CreateJobRequest { job: Some(job), request_id: request_id.to_owned(), validate_only: false };
    api.create_job(Request::new(request)).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_create_sent_twice_makes_one_job_and_another_one_is_refused() {
    let (_folder, _db, api) = api();
    let made = create(&api, job("a"), "id-1").await.unwrap();
    assert!(made.warnings[0].contains("does not exist yet"), "{:?}", made.warnings);
    assert_eq!(create(&api, job("a"), "id-1").await.unwrap().job, made.job);
    assert_eq!(create(&api, job("a"), "id-2").await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn a_wrong_job_is_refused_with_the_place_and_nothing_is_stored() {
    let (_folder, _db, api) = api();
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
    let (_folder, db, api) = api();
    let topic = TopicName::new("traffic").unwrap();
    let new = NewTopic { name: topic, partitions: 1, replication: 1, retention_ms: None, max_ahead_ms: None };
    db.log().create_topic(&new).await.unwrap();
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
    let (_folder, _db, api) = api();
    for name in ["a", "b", "c"] {
        create(&api, job(name), "").await.unwrap();
    }
    let pause = v1::PauseJobRequest { name: "jobs/b".to_owned(), note: "harvest".to_owned() };
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
