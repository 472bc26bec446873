//! The counts of a batch: where each reading that it read went.

use serde::{Deserialize, Serialize};

/// Conservation law of a batch: every reading that was read is counted in exactly one place.
///
/// `read = on_time + late + skipped`, `on_time = kept + quarantined + duplicate` and `late = amended + aside`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ledger {
    /// Log records (blocks, or messages of a foreign topic) in the range.
    pub records: u64,
    /// Log records that could not be decoded; their readings are unknown and not in `read`. Each is kept in quarantine.
    pub undecodable: u64,
    /// Readings decoded from the range.
    pub read: u64,
    /// Readings of the batch's window.
    pub on_time: u64,
    /// Readings of earlier windows at offsets that this batch owns.
    pub late: u64,
    /// Readings of other windows' batches, read here because ranges overlap.
    pub skipped: u64,
    /// On-time readings that were given to the job's SQL.
    pub kept: u64,
    /// On-time readings that do not fit the job's declared columns; each is kept in quarantine with its reason.
    pub quarantined: u64,
    /// On-time readings that repeat a (device, seq) of the same batch.
    pub duplicate: u64,
    /// Of the late readings, those that a revision of their own window takes in; the others were set aside or dropped.
    pub amended: u64,
    /// Offsets that were planned but gone from the log when they were to be read.
    pub lost_offsets: u64,
}

impl Ledger {
    /// The broken law, if one is.
    pub fn check(&self) -> Result<(), String> {
        let parts = self.on_time + self.late + self.skipped;
        if self.read != parts {
            return Err(format!("read {} readings but on time + late + skipped is {parts}", self.read));
        }
        if self.late < self.amended {
            return Err(format!("{} readings amend their windows, but only {} are late", self.amended, self.late));
        }
        let parts = self.kept + self.quarantined + self.duplicate;
        if self.on_time != parts {
            return Err(format!("{} readings on time but kept + quarantined + duplicate is {parts}", self.on_time));
        }
        Ok(())
    }

    /// The sum over two batches.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            records: self.records + other.records,
            undecodable: self.undecodable + other.undecodable,
            read: self.read + other.read,
            on_time: self.on_time + other.on_time,
            late: self.late + other.late,
            skipped: self.skipped + other.skipped,
            kept: self.kept + other.kept,
            quarantined: self.quarantined + other.quarantined,
            duplicate: self.duplicate + other.duplicate,
            amended: self.amended + other.amended,
            lost_offsets: self.lost_offsets + other.lost_offsets,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts by name, as a marker shows them.
    fn counts(ledger: &Ledger) -> std::collections::BTreeMap<String, u64> {
        serde_json::from_value(serde_json::to_value(ledger).unwrap()).unwrap()
    }

    fn ledgers() -> impl Strategy<Value = Ledger> {
        let names: Vec<String> = counts(&Ledger::default()).into_keys().collect();
        prop::collection::vec(0u64..1 << 40, names.len()).prop_map(move |values| {
            let counts: serde_json::Map<_, _> = names.iter().cloned().zip(values.into_iter().map(Into::into)).collect();
            serde_json::from_value(counts.into()).unwrap()
        })
    }

    proptest! {
        #[test]
        fn the_sum_of_two_batches_counts_what_both_count(a in ledgers(), b in ledgers()) {
            let sum = counts(&a.plus(&b));
            for (name, count) in counts(&a) {
                prop_assert_eq!(sum[&name], count + counts(&b)[&name], "{}", name);
            }
            prop_assert_eq!(a.plus(&b), b.plus(&a));
            prop_assert_eq!(a.plus(&Ledger::default()), a);
        }
    }

    #[test]
    fn each_reading_is_counted_in_exactly_one_place() {
        let good = Ledger {
            read: 10,
            on_time: 6,
            late: 1,
            skipped: 3,
            kept: 4,
            quarantined: 1,
            duplicate: 1,
            ..Default::default()
        };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(good.plus(&good).check(), Ok(()));
        assert!(Ledger { late: 2, ..good }.check().is_err());
        assert_eq!(Ledger { amended: 1, ..good }.check(), Ok(()));
        assert!(Ledger { amended: 2, ..good }.check().is_err());
        assert!(Ledger { kept: 5, ..good }.check().is_err());
    }
}
