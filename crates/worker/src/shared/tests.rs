use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use proptest::prelude::*;
use windrow_ports::log::{Append, Bounds, NewTopic, TopicInfo};
use windrow_protocol::cut::Lookup;
use windrow_protocol::plan::SealedBy;
use windrow_protocol::{Revision, Timestamp, Window};

use super::*;

/// A partition that has a record at every offset but each seventh, and counts what is read of it.
#[derive(Debug, Default)]
struct Counting {
    read: AtomicU64,
    /// How often it was asked.
    asked: AtomicU64,
    chunk: usize,
    /// Offsets behind a range that come along with it.
    behind: i64,
    /// Whether it breaks behind them.
    breaks: bool,
}

fn has(offset: i64) -> bool {
    offset % 7 != 0
}

fn record(offset: i64) -> Record {
    let timestamp = Timestamp::from_millis(offset);
    Record { offset: Offset(offset), timestamp, key: None, payload: vec![b'x'; 100].into() }
}

#[async_trait]
impl Log for Counting {
    fn read(
        &self,
        _: &TopicName,
        _: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        let records: Vec<Record> = (range.start.0..range.end.0).filter(|at| has(*at)).map(record).collect();
        self.read.fetch_add(records.len() as u64, Ordering::Relaxed);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let chunks: Vec<_> = records.chunks(self.chunk).map(|chunk| Ok(chunk.to_vec())).collect();
        futures::stream::iter(chunks).boxed()
    }

    fn read_ahead(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        range: OffsetRange,
    ) -> BoxStream<'static, Result<Vec<Record>, LogError>> {
        let range = OffsetRange::new(range.start, Offset(range.end.0 + self.behind));
        let breaks = self.breaks.then(|| Err(LogError::Unavailable("broken".to_owned())));
        self.read(topic, partition, range).chain(futures::stream::iter(breaks)).boxed()
    }

    async fn create_topic(&self, _: &NewTopic) -> Result<(), LogError> {
        unreachable!("only read")
    }
    async fn delete_topic(&self, _: &TopicName) -> Result<(), LogError> {
        unreachable!("only read")
    }
    async fn topic(&self, _: &TopicName) -> Result<TopicInfo, LogError> {
        unreachable!("only read")
    }
    async fn append(&self, _: &TopicName, _: PartitionId, _: Vec<Append>) -> Result<Vec<Offset>, LogError> {
        unreachable!("only read")
    }
    async fn look_up(
        &self,
        _: &TopicName,
        _: &[(PartitionId, Timestamp)],
    ) -> Result<Vec<Result<Lookup, LogError>>, LogError> {
        unreachable!("only read")
    }
    async fn bounds(&self, _: &TopicName, _: &[PartitionId]) -> Result<Vec<Result<Bounds, LogError>>, LogError> {
        unreachable!("only read")
    }
    async fn truncate(&self, _: &TopicName, _: PartitionId, _: Offset) -> Result<(), LogError> {
        unreachable!("only read")
    }
    async fn ping(&self) -> Result<(), LogError> {
        unreachable!("only read")
    }
}

/// The plan of a window whose range begins long before what it owns.
fn plan(topic_id: &str, start: i64, owned: i64, end: i64) -> Plan {
    Plan {
        topic: TopicName::new("t").unwrap(),
        topic_id: TopicId::new(topic_id).unwrap(),
        partition: PartitionId(0),
        window: Window::new(Timestamp::from_millis(0), Timestamp::from_millis(1)),
        read: OffsetRange::new(Offset(start), Offset(end)),
        owned: OffsetRange::new(Offset(owned), Offset(end)),
        lost: None,
        sealed_by: SealedBy::Watermark,
        revision: Revision(0),
        spec_hash: String::new(),
        generation: 1,
        revises: None,
    }
}

async fn read(shared: &SharedReads, log: &Arc<dyn Log>, plan: &Plan) -> Vec<i64> {
    let chunks: Vec<Vec<Record>> = shared.read(log, plan, plan.read).try_collect().await.unwrap();
    let records: Vec<Record> = chunks.into_iter().flatten().collect();
    for found in &records {
        assert_eq!(*found, record(found.offset.0), "what is given is what the log has");
    }
    records.iter().map(|record| record.offset.0).collect()
}

fn expected(start: i64, end: i64) -> Vec<i64> {
    (start..end).filter(|at| has(*at)).collect()
}

/// Sixty windows of ten records each with a lateness of a hundred, read in order; records read of the log.
async fn sixty_windows(shared: &SharedReads) -> u64 {
    let counting = Arc::new(Counting { chunk: 16, ..Counting::default() });
    let log: Arc<dyn Log> = counting.clone();
    for window in 0..60 {
        let (start, end) = (window * 10, window * 10 + 110);
        assert_eq!(read(shared, &log, &plan("i", start, end - 10, end)).await, expected(start, end));
    }
    counting.read.load(Ordering::Relaxed)
}

#[tokio::test]
async fn windows_that_overlap_are_read_from_the_log_once() {
    let all = expected(0, 700).len() as u64;
    assert_eq!(sixty_windows(&SharedReads::new(1 << 20)).await, all);
    let without = sixty_windows(&SharedReads::new(0)).await;
    assert!(without > 9 * all, "{without} of {all}");
}

#[tokio::test]
async fn no_more_is_kept_than_allowed_and_a_range_that_is_mostly_its_own_is_not_kept() {
    let shared = SharedReads::new(40 * 228);
    sixty_windows(&shared).await;
    assert!(shared.bytes() > 0 && shared.bytes() <= 40 * 228, "{}", shared.bytes());
    let (own, log) =
        (SharedReads::new(1 << 20), Arc::new(Counting { chunk: 16, ..Counting::default() }) as Arc<dyn Log>);
    read(&own, &log, &plan("i", 0, 40, 100)).await;
    assert_eq!(own.bytes(), 0);
}

#[tokio::test]
async fn what_comes_along_behind_a_range_is_given_to_the_windows_after_it() {
    for breaks in [false, true] {
        let counting = Arc::new(Counting { chunk: 16, behind: 100, breaks, ..Counting::default() });
        let (shared, log) = (SharedReads::new(1 << 20), counting.clone() as Arc<dyn Log>);
        for start in (0..1_100).step_by(10) {
            assert_eq!(read(&shared, &log, &plan("i", start, start, start + 10)).await, expected(start, start + 10));
        }
        let (asked, read) = (counting.asked.load(Ordering::Relaxed), counting.read.load(Ordering::Relaxed));
        assert!(asked <= 12, "about every eleventh window asks: {asked}");
        assert!(read <= expected(0, 1_200).len() as u64, "{read}");
    }
}

#[tokio::test]
async fn a_read_that_breaks_within_its_range_is_an_error() {
    let log: Arc<dyn Log> = Arc::new(Counting { chunk: 16, behind: -50, breaks: true, ..Counting::default() });
    let plan = plan("i", 0, 0, 100);
    let read: Result<Vec<_>, LogError> = SharedReads::new(1 << 20).read(&log, &plan, plan.read).try_collect().await;
    assert_eq!(read, Err(LogError::Unavailable("broken".to_owned())));
}

#[tokio::test]
async fn records_of_a_topic_that_was_made_anew_are_not_those_of_the_old_one() {
    let shared = SharedReads::new(1 << 20);
    let counting = Arc::new(Counting { chunk: 16, ..Counting::default() });
    let log: Arc<dyn Log> = counting.clone();
    read(&shared, &log, &plan("old", 0, 90, 100)).await;
    let once = counting.read.load(Ordering::Relaxed);
    read(&shared, &log, &plan("new", 0, 90, 100)).await;
    assert_eq!(counting.read.load(Ordering::Relaxed), 2 * once);
}

proptest! {
    #[test]
    fn whatever_was_read_before_a_range_gives_its_records_in_order(
        ranges in prop::collection::vec((0i64..200, 0i64..60), 1..12), chunk in 1usize..20, most in 0usize..60_000,
        behind in 1i64..80, breaks in any::<bool>()
    ) {
        let shared = SharedReads::new(most);
        let log: Arc<dyn Log> = Arc::new(Counting { chunk, behind, breaks, ..Counting::default() });
        for (start, len) in ranges {
            let plan = plan("i", start, start + len / 2, start + len);
            let found = futures::executor::block_on(read(&shared, &log, &plan));
            prop_assert_eq!(found, expected(start, start + len));
            prop_assert!(shared.bytes() <= most);
        }
    }
}
