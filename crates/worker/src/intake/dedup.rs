//! Which (device, seq) a batch has seen: devices repeat themselves after a lost acknowledgement.
//!
//! Sequence numbers of a device mostly follow each other, so the seen ones are a few intervals, not a set. A device that
//! restarts counts from the beginning again: a seen number on a reading that is newer than everything before it is no
//! repeat (a repeat carries its old time) but begins a new epoch.

use std::collections::{BTreeMap, HashMap};

/// A device's place in [`Dedup`].
pub type DeviceNumber = usize;

#[derive(Debug, Default)]
pub struct Dedup {
    numbers: HashMap<Box<str>, DeviceNumber>,
    devices: Vec<Device>,
}

#[derive(Debug)]
struct Device {
    name: Box<str>,
    /// In the order of their beginnings; none before the first reading.
    epochs: Vec<Epoch>,
}

/// The numbers between two restarts of a device.
#[derive(Debug)]
struct Epoch {
    /// Event time of its first reading; readings before it belong to the epoch before.
    from_us: i64,
    latest_us: i64,
    /// The highest run of seen numbers, start to last (inclusive): the one that mostly grows.
    highest: (u64, u64),
    /// The runs below it, start to last; runs neither touch nor overlap.
    below: BTreeMap<u64, u64>,
}

impl Dedup {
    /// The place of a device, which is made if it is new. `guess` is tried first: blocks tend to name their devices in
    /// the same order.
    pub fn number(&mut self, name: &str, guess: Option<DeviceNumber>) -> DeviceNumber {
        if let Some(guess) = guess
            && self.devices.get(guess).is_some_and(|device| *device.name == *name)
        {
            return guess;
        }
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        self.devices.push(Device { name: name.into(), epochs: Vec::new() });
        self.numbers.insert(name.into(), self.devices.len() - 1);
        self.devices.len() - 1
    }

    /// Notes a reading of a device that has a place; whether it is the first of its kind.
    #[inline]
    pub fn is_new(&mut self, number: DeviceNumber, seq: u64, time_us: i64) -> bool {
        let epochs = &mut self.devices[number].epochs;
        if let [epoch] = epochs.as_mut_slice()
            && epoch.continues(seq)
        {
            epoch.latest_us = epoch.latest_us.max(time_us);
            return true;
        }
        is_new(epochs, seq, time_us)
    }
}

fn is_new(epochs: &mut Vec<Epoch>, seq: u64, time_us: i64) -> bool {
    if epochs.is_empty() {
        epochs.push(Epoch::new(i64::MIN, seq, time_us));
        return true;
    }
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

impl Epoch {
    fn new(from_us: i64, seq: u64, time_us: i64) -> Self {
        Self { from_us, latest_us: time_us, highest: (seq, seq), below: BTreeMap::new() }
    }

    /// Notes the number if it follows the highest one directly.
    #[inline]
    fn continues(&mut self, seq: u64) -> bool {
        let follows = self.highest.1.checked_add(1) == Some(seq);
        if follows {
            self.highest.1 = seq;
        }
        follows
    }

    /// Whether the number was not there yet.
    fn insert(&mut self, seq: u64) -> bool {
        let (start, last) = self.highest;
        if seq > last {
            if !self.continues(seq) {
                self.below.insert(start, last);
                self.highest = (seq, seq);
            }
            return true;
        }
        seq < start && self.insert_below(seq)
    }

    fn insert_below(&mut self, seq: u64) -> bool {
        let mut start = seq;
        if let Some((&before, last)) = self.below.range_mut(..=seq).next_back() {
            if *last >= seq {
                return false;
            }
            if *last + 1 == seq {
                *last = seq;
                start = before;
            }
        }
        // Joins the run that follows directly, if one does. No overflow: `seq` is below the highest run.
        if self.highest.0 == seq + 1 {
            self.below.remove(&start);
            self.highest.0 = start;
            return true;
        }
        let after = self.below.remove(&(seq + 1));
        if start == seq || after.is_some() {
            self.below.insert(start, after.unwrap_or(seq));
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
                let number = dedup.number(name, None);
                prop_assert_eq!(dedup.is_new(number, seq, seq as i64 * 10), seen.insert((device, seq)));
            }
        }
    }

    #[test]
    fn a_restarted_device_loses_nothing_and_its_repeats_are_still_found() {
        let mut dedup = Dedup::default();
        let d = dedup.number("d", None);
        assert!((0..50).all(|seq| dedup.is_new(d, seq, seq as i64)));
        assert!((0..50).all(|seq| dedup.is_new(d, seq, 1_000 + seq as i64)), "numbers begin again after a restart");
        assert!((0..50).all(|seq| !dedup.is_new(d, seq, 1_000 + seq as i64)), "repeats after the restart");
        assert!((0..50).all(|seq| !dedup.is_new(d, seq, seq as i64)), "repeats from before the restart");
    }

    #[test]
    fn the_largest_number_is_a_number() {
        let mut dedup = Dedup::default();
        let d = dedup.number("d", None);
        assert!(dedup.is_new(d, u64::MAX, 0));
        assert!(dedup.is_new(d, u64::MAX - 1, -1));
        assert!(!dedup.is_new(d, u64::MAX, 0));
    }
}
