//! What becomes of a batch when a worker is done with it, or is gone. Pure.

use windrow_protocol::duration::Length;
use windrow_protocol::state::{BatchRecord, BatchState, Outcome, Task};
use windrow_protocol::volume::{Pace, Seen, Waiting, likely_full_at};
use windrow_protocol::{Offset, Timestamp, WorkerId};

/// Pause after the first failure; doubles with each, up to [`LONGEST_PAUSE_S`].
const FIRST_PAUSE_S: i64 = 1;
const LONGEST_PAUSE_S: i64 = 60;
/// Pause while something is away.
const OUTAGE_PAUSE_S: i64 = 5;

/// The batch after an outcome.
pub fn after(batch: &BatchRecord, outcome: &Outcome, max_attempts: u32, now: Timestamp) -> BatchRecord {
    let mut batch = batch.clone();
    match outcome {
        Outcome::Committed(summary) => batch.state = BatchState::Committed(summary.clone()),
        Outcome::Released => batch.state = BatchState::Pending,
        Outcome::Short(seen) => {
            batch.state = BatchState::Pending;
            batch.waiting = Some(Waiting { seen: *seen, until: Some(full_at(&batch, seen)) });
        }
        Outcome::Unavailable { error } => {
            batch.last_error = Some(error.clone());
            batch.not_before = Some(now.plus_micros(Length::from_secs(OUTAGE_PAUSE_S).micros()));
            batch.state = BatchState::Pending;
        }
        Outcome::Failed { error, retryable } => {
            batch.failures += 1;
            batch.last_error = Some(error.clone());
            if *retryable && batch.failures < max_attempts {
                batch.not_before = Some(now.plus_micros(pause(batch.failures).micros()));
                batch.state = BatchState::Pending;
            } else {
                batch.state = BatchState::Failed;
            }
        }
    }
    batch
}

/// The offset from which on a window that was not full is worth another look: the next one at the soonest.
fn full_at(batch: &BatchRecord, seen: &Seen) -> Offset {
    let likely = match &batch.task {
        Task::Map(plan) => plan.volume().and_then(|cut| likely_full_at(cut.until.amount, seen, Pace::default())),
        Task::Finish(_) => None,
    };
    likely.unwrap_or(seen.through.next())
}

/// The batch after its worker has gone without a word. Workers come and go, so the first loss costs nothing; but a batch
/// that takes one worker after the other with it must stop: twice `max_attempts` losses park it.
pub fn lost(batch: &BatchRecord, worker: &WorkerId, max_attempts: u32, now: Timestamp) -> BatchRecord {
    let error = format!("worker {worker} ended, or lost its lease, while it had the batch");
    let mut after = BatchRecord { losses: batch.losses + 1, last_error: Some(error), ..batch.clone() };
    if after.losses >= max_attempts.saturating_mul(2) {
        after.state = BatchState::Failed;
    } else {
        after.state = BatchState::Pending;
        after.not_before = (batch.losses > 0).then(|| now.plus_micros(pause(batch.losses).micros()));
    }
    after
}

/// The pause after so many failures, at least one.
fn pause(failures: u32) -> Length {
    let seconds = FIRST_PAUSE_S.checked_shl(failures - 1).unwrap_or(LONGEST_PAUSE_S);
    Length::from_secs(seconds.clamp(FIRST_PAUSE_S, LONGEST_PAUSE_S))
}

#[cfg(test)]
mod tests {
    use windrow_protocol::plan::{BatchId, FinishPlan, Part};
    use windrow_protocol::state::{Summary, Task};
    use windrow_protocol::{JobName, Revision, TopicId, TopicName, Window};

    use super::*;

    fn batch(failures: u32) -> BatchRecord {
        let window = Window::new(Timestamp::from_millis(0), Timestamp::from_millis(1_000));
        let plan = FinishPlan {
            topic: TopicName::new("t").unwrap(),
            topic_id: TopicId::new("i").unwrap(),
            window,
            until: window.end,
            windows: 1,
            shift: None,
            partitions: vec![],
            empty: vec![],
            revision: Revision(0),
            revisions: Default::default(),
            spec_hash: String::new(),
            generation: 1,
        };
        let id =
            BatchId { job: JobName::new("j").unwrap(), window: window.id(), part: Part::Finish, revision: Revision(0) };
        BatchRecord { failures, ..BatchRecord::new(id, Task::Finish(plan)) }
    }

    fn failed(failures: u32, retryable: bool) -> BatchRecord {
        let outcome = Outcome::Failed { error: "why".into(), retryable };
        after(&batch(failures), &outcome, 5, Timestamp::from_millis(0))
    }

    #[test]
    fn failures_are_tried_again_after_a_growing_pause_and_then_parked() {
        let pauses: Vec<_> = (0..4).map(|n| failed(n, true).not_before.unwrap().micros() / 1_000_000).collect();
        assert_eq!(pauses, [1, 2, 4, 8]);
        let parked = failed(4, true);
        assert_eq!((parked.state, parked.failures, parked.last_error.as_deref()), (BatchState::Failed, 5, Some("why")));
        assert_eq!(
            after(&batch(90), &Outcome::Failed { error: "e".into(), retryable: true }, 100, Timestamp::from_millis(0))
                .not_before,
            Some(Timestamp::from_millis(60_000))
        );
    }

    #[test]
    fn what_cannot_work_is_parked_at_once() {
        assert_eq!(failed(0, false).state, BatchState::Failed);
    }

    #[test]
    fn an_outage_is_no_failure_however_long_it_lasts() {
        let mut waiting = batch(4);
        for _ in 0..100 {
            let outcome = Outcome::Unavailable { error: "no store".into() };
            waiting = after(&waiting, &outcome, 5, Timestamp::from_millis(0));
        }
        assert_eq!((&waiting.state, waiting.failures), (&BatchState::Pending, 4));
        assert_eq!(
            (waiting.last_error.as_deref(), waiting.not_before),
            (Some("no store"), Some(Timestamp::from_millis(5_000)))
        );
    }

    #[test]
    fn a_batch_that_takes_worker_after_worker_with_it_is_parked() {
        let (worker, now) = (WorkerId::new("w").unwrap(), Timestamp::from_millis(0));
        let first = lost(&batch(0), &worker, 5, now);
        assert_eq!((&first.state, first.losses, first.failures, first.not_before), (&BatchState::Pending, 1, 0, None));
        let second = lost(&first, &worker, 5, now);
        let pauses = [&second, &lost(&second, &worker, 5, now)].map(|batch| batch.not_before);
        assert_eq!(pauses, [1_000, 2_000].map(|ms| Some(Timestamp::from_millis(ms))), "it may be the batch's fault");
        let mut again = first;
        let losses = (1..100).find(|_| {
            again = lost(&again, &worker, 5, now);
            again.state == BatchState::Failed
        });
        assert_eq!(losses, Some(9), "ten in all");
        assert!(again.last_error.is_some_and(|error| error.contains("worker w ended")));
    }

    #[test]
    fn a_batch_that_is_handed_back_has_not_failed() {
        let released = after(&batch(2), &Outcome::Released, 5, Timestamp::from_millis(0));
        assert_eq!((released.state, released.failures), (BatchState::Pending, 2));
        let committed = after(&batch(2), &Outcome::Committed(Summary::default()), 5, Timestamp::from_millis(0));
        assert_eq!(committed.state, BatchState::Committed(Summary::default()));
    }
}
