//! Windows of volume: where an attempt finds that they end.

use windrow_protocol::volume::{Amount, Seen, Until, VolumeCut};

use super::*;

/// A window that begins at an offset of the bench's log: ten blocks of 100 readings, a hundred seconds each.
fn window_at(bench: &Bench, start: i64, until: Until) -> Assignment {
    let spec = spec(false);
    let range = OffsetRange::new(Offset(start), Offset(start));
    let window = Window::of_volume(P0, Offset(start));
    let plan = Plan {
        revises: None,
        topic: TopicName::new("t").unwrap(),
        topic_id: bench.topic_id.clone(),
        partition: P0,
        window,
        read: range,
        owned: range,
        lost: None,
        sealed_by: SealedBy::Volume(VolumeCut::new(until)),
        revision: Revision(0),
        spec_hash: spec.hash(),
        generation: 1,
    };
    let id = BatchId { window: window.id(), ..id(Part::Partition(P0)) };
    Assignment { id, task: Task::Map(plan), spec, skip: None, outcome: None }
}

fn readings(n: u64) -> Until {
    Until { amount: Amount::Readings(n), within: None }
}

fn sealed(assignment: &Assignment, at: i64) -> Assignment {
    let mut sealed = assignment.clone();
    let Task::Map(plan) = &mut sealed.task else { panic!("a map") };
    let SealedBy::Volume(cut) = &mut plan.sealed_by else { panic!("of volume") };
    cut.sealed_at = Some(Offset(at));
    sealed
}

async fn marker(bench: &Bench, assignment: &Assignment) -> Marker {
    let path = paths::marker(&assignment.id.job, assignment.id.window, assignment.id.part, Revision(0));
    bench.tools.store.read_marker::<Marker>(&path).await.unwrap().expect("a marker")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attempt_finds_the_same_end_and_one_counts() {
    let bench = bench().await;
    let assignment = window_at(&bench, 2, readings(250));
    let results = futures::future::join_all((0..4).map(|_| run(&bench.tools, &assignment))).await;
    for result in results {
        let summary = result.unwrap();
        let found = summary.found.expect("an end");
        assert_eq!((found.through, found.records, found.amount), (Offset(5), 3, 300));
        assert_eq!((summary.rows, summary.ledger.kept), (2, 300));
    }
    let marker = marker(&bench, &assignment).await;
    assert_eq!((marker.plan.owned, marker.plan.read), (OffsetRange::new(Offset(2), Offset(5)), marker.plan.owned));
    assert_eq!(marker.plan.window.id().to_string(), "p0-o2");
    assert_eq!(windrow_protocol::audit::marker(&marker), Vec::<String>::new());
    assert_eq!(objects(&bench, "job/data").await, ["job/data/window=p0-o2/part-00000-000.parquet"]);
    assert!(objects(&bench, "job/_staging").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_not_full_commits_nothing_and_says_how_much_is_there() {
    let bench = bench().await;
    let short = run(&bench.tools, &window_at(&bench, 7, readings(301))).await;
    let Err(AttemptError::Short(Seen { through, records, amount, .. })) = short else { panic!("{short:?}") };
    assert_eq!((through, records, amount), (Offset(10), 3, 300), "repeated readings count too");
    assert!(objects(&bench, "job").await.is_empty());
    let empty = run(&bench.tools, &window_at(&bench, 10, readings(1))).await;
    assert!(matches!(empty, Err(AttemptError::Short(seen)) if seen.records == 0), "{empty:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_ends_before_the_record_that_is_past_its_time() {
    let bench = bench().await;
    let within = Some("250s".parse().unwrap());
    let assignment = window_at(&bench, 0, Until { within, ..readings(1_000_000) });
    let found = run(&bench.tools, &assignment).await.unwrap().found.unwrap();
    // Blocks are stamped 99, 199, 299, 399 s: the fourth is 300 s after the first.
    assert_eq!((found.through, found.records), (Offset(3), 3));
    assert_eq!(marker(&bench, &assignment).await.plan.window.end, Timestamp::from_millis(299_001));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_window_ends_where_it_is_sealed_unless_it_is_full_before() {
    let bench = bench().await;
    let open = window_at(&bench, 4, readings(1_000_000));
    let found = run(&bench.tools, &sealed(&open, 6)).await.unwrap().found.unwrap();
    assert_eq!((found.through, found.amount), (Offset(6), 200));
    let full = window_at(&bench, 6, readings(200));
    let found = run(&bench.tools, &sealed(&full, 9)).await.unwrap().found.unwrap();
    assert_eq!(found.through, Offset(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_marker_stands_decides_between_a_sealed_end_and_a_later_one() {
    let bench = bench().await;
    let open = window_at(&bench, 0, readings(800));
    // An attempt that began before the seal, and committed after it.
    run(&bench.tools, &open).await.unwrap();
    let found = run(&bench.tools, &sealed(&open, 3)).await.unwrap().found.unwrap();
    assert_eq!(found.through, Offset(8), "the end that is committed");
    let open = window_at(&bench, 8, readings(200));
    run(&bench.tools, &sealed(&open, 9)).await.unwrap();
    let found = run(&bench.tools, &open).await.unwrap().found.unwrap();
    assert_eq!(found.through, Offset(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_of_a_window_is_lost_and_the_window_goes_on_behind_it() {
    let bench = bench().await;
    bench.tools.log.truncate(&TopicName::new("t").unwrap(), P0, Offset(3)).await.unwrap();
    let summary = run(&bench.tools, &window_at(&bench, 1, readings(250))).await.unwrap();
    assert_eq!((summary.ledger.lost_offsets, summary.ledger.records), (2, 3));
    assert_eq!(summary.found.unwrap().through, Offset(6));
    let all_gone = window_at(&bench, 0, readings(1_000_000));
    let summary = run(&bench.tools, &sealed(&all_gone, 3)).await.unwrap();
    assert_eq!((summary.ledger.lost_offsets, summary.ledger.records, summary.rows), (3, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_given_up_ends_where_it_would_have_ended() {
    let bench = bench().await;
    let skip = |assignment| Assignment { skip: Some("bad".to_owned()), ..assignment };
    let assignment = skip(window_at(&bench, 2, readings(250)));
    let summary = run(&bench.tools, &assignment).await.unwrap();
    assert_eq!((summary.ledger.lost_offsets, summary.ledger.read, summary.rows), (3, 0, 0));
    assert_eq!(summary.found.map(|found| found.through), Some(Offset(5)));
    let marker = marker(&bench, &assignment).await;
    assert_eq!((marker.skipped.as_deref(), marker.files.len()), (Some("bad"), 0));
    assert_eq!(windrow_protocol::audit::marker(&marker), Vec::<String>::new());
    let short = run(&bench.tools, &skip(window_at(&bench, 7, readings(301)))).await;
    assert!(matches!(short, Err(AttemptError::Short(_))), "there is nothing to give up yet: {short:?}");
}
