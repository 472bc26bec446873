//! Which (device, seq) a batch has seen: devices repeat themselves after a lost acknowledgement.
//!
//! Sequence numbers of a device mostly follow each other, so the seen ones are a few intervals, not a set. A device that
//! restarts counts from the beginning again: a seen number on a reading that is newer than everything before it is no
//! repeat (a repeat carries its old time) but begins a new epoch.

use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Default)]
pub struct Dedup {
    devices: HashMap<String, Vec<Epoch>>,
}

/// The numbers between two restarts of a device.
#[derive(Debug)]
struct Epoch {
    /// Event time of its first reading; readings before it belong to the epoch before.
    from_us: i64,
    latest_us: i64,
    /// Start to last (inclusive) of each run of seen numbers; runs neither touch nor overlap.
    runs: BTreeMap<u64, u64>,
}

impl Dedup {
    /// Notes a reading; whether it is the first of its kind.
    pub fn is_new(&mut self, device: &str, seq: u64, time_us: i64) -> bool {
        let Some(epochs) = self.devices.get_mut(device) else {
            self.devices.insert(device.to_owned(), vec![Epoch::new(i64::MIN, seq, time_us)]);
            return true;
        };
        let is_newest = epochs.last().is_none_or(|epoch| time_us > epoch.latest_us);
        let at = epochs.iter().rposition(|epoch| epoch.from_us <= time_us).unwrap_or(0);
        let epoch = &mut epochs[at];
        if epoch.insert(seq) {
            epoch.latest_us = epoch.latest_us.max(time_us);
            return true;
        }
        if is_newest {
            epochs.push(Epoch::new(time_us, seq, time_us));
        }
        is_newest
    }
}

impl Epoch {
    fn new(from_us: i64, seq: u64, time_us: i64) -> Self {
        Self { from_us, latest_us: time_us, runs: BTreeMap::from([(seq, seq)]) }
    }

    /// Whether the number was not there yet.
    fn insert(&mut self, seq: u64) -> bool {
        let mut start = seq;
        if let Some((&before, last)) = self.runs.range_mut(..=seq).next_back() {
            if *last >= seq {
                return false;
            }
            if *last + 1 == seq {
                *last = seq;
                start = before;
            }
        }
        // Joins the run that follows directly, if one does.
        let after = seq.checked_add(1).and_then(|next| self.runs.remove(&next));
        if start == seq || after.is_some() {
            self.runs.insert(start, after.unwrap_or(seq));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn without_restarts_it_agrees_with_a_set(readings in prop::collection::vec((0usize..3, 0u64..40), 0..300)) {
            let (mut dedup, mut seen) = (Dedup::default(), HashSet::new());
            for (device, seq) in readings {
                // A reading's time is a function of its number, as that of a device that does not restart.
                let name = ["a", "b", "c"][device];
                prop_assert_eq!(dedup.is_new(name, seq, seq as i64 * 10), seen.insert((device, seq)));
            }
        }
    }

    #[test]
    fn a_restarted_device_loses_nothing_and_its_repeats_are_still_found() {
        let mut dedup = Dedup::default();
        assert!((0..50).all(|seq| dedup.is_new("d", seq, seq as i64)));
        assert!((0..50).all(|seq| dedup.is_new("d", seq, 1_000 + seq as i64)), "numbers begin again after a restart");
        assert!((0..50).all(|seq| !dedup.is_new("d", seq, 1_000 + seq as i64)), "repeats after the restart");
        assert!((0..50).all(|seq| !dedup.is_new("d", seq, seq as i64)), "repeats from before the restart");
    }

    #[test]
    fn the_largest_number_is_a_number() {
        let mut dedup = Dedup::default();
        assert!(dedup.is_new("d", u64::MAX, 0));
        assert!(dedup.is_new("d", u64::MAX - 1, -1));
        assert!(!dedup.is_new("d", u64::MAX, 0));
    }
}
