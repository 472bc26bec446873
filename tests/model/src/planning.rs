//! What a coordinator may decide from a look into the log: by the product's own cutter, over a log whose time index
//! answers as it does.
//!
//! A decision is made from three questions, and the log grows between them; and it may reach the metadata store long
//! after. So a look is any three earlier states of the log, in order. Once a partition is found silent, the decision
//! differs with the moment, which is what makes two coordinators disagree.

use std::collections::BTreeMap;

use windrow_protocol::cut::{Cursor, Cut, Lookup, Observed, advance, cut, may_seal_idle};
use windrow_protocol::duration::Length;
use windrow_protocol::{Offset, Timestamp, TopicId, Window, WindowSpec};

use crate::state::{BATCHES, CursorAt, Sent};

/// Timestamps of the partition's records, in seconds: out of order, and the last proves both windows over.
const LOG_S: [i64; 5] = [4, 12, 8, 17, 31];
const LATENESS_S: i64 = 5;

/// Every decision that a coordinator may come to, by the cursor that it starts from.
#[derive(Debug)]
pub struct Decisions(BTreeMap<CursorAt, Vec<Sent>>);

impl Decisions {
    /// `lengths`: the states of the log that are looked at, by how many records it has.
    pub fn new(lengths: &[usize]) -> anyhow::Result<Self> {
        let calendar = WindowSpec::new("10s".parse()?, "UTC").calendar()?;
        let mut found = BTreeMap::new();
        let mut open = vec![CursorAt { windows: 0, end: 0, next_start: 0 }];
        while let Some(from) = open.pop() {
            if usize::from(from.windows) == BATCHES || found.contains_key(&from) {
                continue;
            }
            let window = calendar.window_of(at(i64::from(from.windows) * 10));
            let mut decisions = Vec::new();
            for seen in looks(window, lengths) {
                let cursor = cursor(from, window)?;
                if let Cut::Seal(seal) = cut(&cursor, seen) {
                    let next = advance(&cursor, window, &seal);
                    let to = CursorAt {
                        windows: from.windows + 1,
                        end: u8::try_from(next.end.0)?,
                        next_start: u8::try_from(next.next_start.0)?,
                    };
                    decisions.push(Sent { from, to, empty: seal.read.is_empty(), current: true });
                    open.push(to);
                }
            }
            decisions.sort_unstable();
            decisions.dedup();
            found.insert(from, decisions);
        }
        Ok(Self(found))
    }

    pub fn from(&self, cursor: CursorAt) -> &[Sent] {
        self.0.get(&cursor).map_or(&[], Vec::as_slice)
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

fn cursor(from: CursorAt, window: Window) -> anyhow::Result<Cursor> {
    Ok(Cursor {
        topic_id: TopicId::new("topic")?,
        sealed_through: window.start,
        end: Offset(from.end.into()),
        next_start: Offset(from.next_start.into()),
        pace: None,
    })
}

/// What may be seen for a window: bounds first, then its end, then its start, over a log that grows meanwhile.
fn looks(window: Window, lengths: &[usize]) -> Vec<Observed> {
    let lateness = Length::from_secs(LATENESS_S);
    let mut looks = Vec::new();
    for (i, bounds) in lengths.iter().enumerate() {
        for (j, end) in lengths.iter().enumerate().skip(i) {
            for next in &lengths[j..] {
                let newest = LOG_S[..*bounds].iter().max().map(|s| at(*s));
                // Silence, and what the wall clock says, come and go as they like.
                let may = may_seal_idle(window, lateness, Length::default(), Length::default(), newest, Timestamp::MAX);
                for idle in [false, may] {
                    looks.push(Observed {
                        log_start: Offset(0),
                        high_watermark: Offset(*bounds as i64),
                        at_end: look_up(*end, window.end.plus_micros(lateness.micros())),
                        at_next: look_up(*next, window.end),
                        idle,
                    });
                }
            }
        }
    }
    looks
}

fn look_up(length: usize, t: Timestamp) -> Lookup {
    let found = LOG_S[..length].iter().position(|s| at(*s) >= t);
    found.map_or(Lookup::Beyond, |offset| Lookup::At(Offset(offset as i64)))
}
