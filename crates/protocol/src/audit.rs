//! Whether markers agree with themselves and with each other: what a proof checks beyond files and offsets. Pure.

use crate::marker::{Complete, FileEntry, Marker};
use crate::paths::Dataset;
use crate::plan::Plan;
use crate::revise::WishId;
use crate::volume::{Amount, VolumeCut};
use crate::{JobName, Ledger, Revision};

/// What is wrong within a partition's marker.
pub fn marker(marker: &Marker) -> Vec<String> {
    let mut findings = Vec::new();
    let Marker { plan, ledger, .. } = marker;
    if let Err(broken) = ledger.check() {
        findings.push(format!("ledger: {broken}"));
    }
    if plan.read.start > plan.owned.start || plan.read.end != plan.owned.end {
        findings.push(format!("it reads {} but owns {}: it can't have read all that it owns", plan.read, plan.owned));
    }
    let rows = |dataset| rows_in(&marker.files, marker, dataset);
    let (late, quarantine) = (rows(Dataset::Late), rows(Dataset::Quarantine));
    // Late readings that are unfit go to quarantine; with `late: drop` no late reading is written, and what amends its
    // window is written there.
    let aside = ledger.late.saturating_sub(ledger.amended) + ledger.quarantined + ledger.undecodable;
    // A revision that is carried writes what of the late readings is still there, also where the first result dropped them.
    let is_counted =
        if late > 0 && marker.carried.is_none() { late + quarantine == aside } else { late + quarantine <= aside };
    if !is_counted || quarantine < ledger.quarantined + ledger.undecodable {
        findings.push(format!(
            "{late} rows are late and {quarantine} in quarantine, but the ledger counts {} late, {} quarantined and {} \
             undecodable",
            ledger.late, ledger.quarantined, ledger.undecodable
        ));
    }
    if ledger.kept == 0 && rows(Dataset::Data) + rows(Dataset::Parts) > 0 {
        findings.push("it has result rows, but its ledger keeps no reading".to_owned());
    }
    findings.extend(plan.volume().and_then(|cut| volume(marker, plan, cut)));
    findings
}

/// What is wrong with the end of a window of volume. Whether an earlier record had filled it only the log could tell.
fn volume(marker: &Marker, plan: &Plan, cut: &VolumeCut) -> Option<String> {
    let Some(found) = cut.found else { return Some("it does not say where its window ends".to_owned()) };
    if found.through != plan.owned.end || plan.read != plan.owned {
        return Some(format!(
            "its window ends at {}, but it owns {} and reads {}",
            found.through, plan.owned, plan.read
        ));
    }
    let wanted = cut.until.amount.number();
    // Ended by the time that its records may span, or by silence.
    let may_lack = cut.until.within.is_some();
    if found.amount < wanted && !may_lack {
        return Some(format!("its window ends with {}, but is not over before {wanted}", found.amount));
    }
    let counted = match cut.until.amount {
        Amount::Readings(_) => marker.ledger.read == found.amount,
        Amount::Bytes(_) => true,
    };
    let agrees = counted && marker.ledger.records == found.records;
    (marker.skipped.is_none() && !agrees).then(|| {
        format!("its ledger counts other records or readings than the {} records of its window", found.records)
    })
}

/// What is wrong between the markers of one partition of one window: all its revisions in order, from the first.
pub fn revisions(markers: &[&Marker]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut before: Option<&Marker> = None;
    for marker in markers {
        let (revision, base) = (marker.plan.revision, marker.plan.revises.as_ref().and_then(|revises| revises.base));
        if base != before.map(|before| before.plan.revision) {
            findings.push(format!("revision {revision} does not follow the one before it"));
        } else if let Some(before) = before {
            let same = before.plan.read == marker.plan.read && before.plan.owned == marker.plan.owned;
            let more = before.plan.more().iter().all(|range| {
                marker.plan.more().iter().any(|wider| wider.start <= range.start && range.end <= wider.end)
            });
            if !(same && more) {
                findings.push(format!("revision {revision} does not read or own what the one before it did"));
            }
        } else if revision > Revision::default() && !marker.plan.owned.is_empty() {
            findings.push(format!("revision {revision} is the first and owns {}", marker.plan.owned));
        }
        before = Some(marker);
    }
    findings
}

/// How many readings that came late a revision has taken in or set aside, beyond the one before it (`None` for the first).
pub fn taken_in(before: Option<&Marker>, after: &Marker) -> i64 {
    let amends = after.plan.revises.as_ref().is_some_and(|revises| matches!(revises.cause, WishId::Late(_)));
    if !amends {
        return 0;
    }
    let all = |ledger: &Ledger| (ledger.on_time + ledger.late) as i64;
    all(&after.ledger) - before.map_or(0, |before| all(&before.ledger))
}

/// Where a window's `_complete` marker and its partitions' markers differ. `partitions`: those that it must have joined,
/// of their revisions then.
pub fn window(complete: &Complete, partitions: &[&Marker]) -> Vec<String> {
    let mut findings = Vec::new();
    let plan = &complete.plan;
    for partition in &plan.partitions {
        let Some(marker) = partitions.iter().find(|marker| marker.plan.partition == *partition) else {
            findings.push(format!("complete, but partition {partition} has no marker"));
            continue;
        };
        let input = complete.inputs.iter().find(|input| input.partition == *partition);
        if input.is_none_or(|input| input.attempt != marker.attempt) {
            findings.push(format!("partition {partition} is not the attempt that the window was completed with"));
        }
        // The last step may have a later spec: a reduce that was mended.
        let first = partitions.first().map_or(&marker.plan.spec_hash, |first| &first.plan.spec_hash);
        if marker.plan.spec_hash != *first || marker.plan.topic_id != plan.topic_id {
            findings.push(format!("partition {partition} has another spec or topic than the others"));
        }
    }
    for marker in partitions.iter().filter(|marker| !plan.partitions.contains(&marker.plan.partition)) {
        findings
            .push(format!("partition {} has a marker, but the window was completed without", marker.plan.partition));
    }
    let sum = partitions.iter().fold(Ledger::default(), |sum, marker| sum.plus(&marker.ledger));
    if sum != complete.ledger {
        findings.push("the window's ledger is not the sum of its partitions'".to_owned());
    }
    let of_partitions: u64 = partitions.iter().map(|marker| rows_in(&marker.files, marker, Dataset::Data)).sum();
    let of_reduce = rows_of(&complete.files, &complete.job, Dataset::Data);
    if of_partitions + of_reduce != complete.rows {
        findings.push(format!("it says {} rows, its files have {}", complete.rows, of_partitions + of_reduce));
    }
    findings
}

fn rows_in(files: &[FileEntry], marker: &Marker, dataset: Dataset) -> u64 {
    rows_of(files, &marker.job, dataset)
}

fn rows_of(files: &[FileEntry], job: &JobName, dataset: Dataset) -> u64 {
    files.iter().filter(|file| file.is_in(job, dataset)).map(|file| file.rows).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{LatePolicy, LateRule};
    use crate::marker::{Input, MARKER_VERSION};
    use crate::plan::{FinishPlan, Revises, SealedBy};
    use crate::volume::{Seen, Until};
    use crate::{
        AttemptId, JobName, Offset, OffsetRange, PartitionId, Revision, Timestamp, TopicId, TopicName, Window,
    };

    fn file(dataset: Dataset, rows: u64) -> FileEntry {
        let path = format!("{}/window=x/part-0.parquet", crate::paths::dataset(&JobName::new("j").unwrap(), dataset));
        FileEntry { staged: String::new(), path, bytes: 1, rows, sha256: String::new() }
    }

    fn partition(partition: i32) -> Marker {
        let range = OffsetRange::new(Offset(3), Offset(9));
        let window = Window::new(Timestamp::from_micros(0), Timestamp::from_micros(10));
        Marker {
            version: MARKER_VERSION,
            job: JobName::new("j").unwrap(),
            plan: Plan {
                topic: TopicName::new("t").unwrap(),
                topic_id: TopicId::new("i").unwrap(),
                partition: PartitionId(partition),
                window,
                read: range,
                owned: range,
                lost: None,
                sealed_by: SealedBy::Watermark,
                revision: Revision(0),
                spec_hash: "s".into(),
                generation: 1,
                revises: None,
            },
            attempt: AttemptId::new(format!("a{partition}")).unwrap(),
            ledger: Ledger {
                records: 6,
                read: 20,
                on_time: 15,
                kept: 13,
                quarantined: 2,
                late: 5,
                ..Ledger::default()
            },
            files: vec![file(Dataset::Data, 4), file(Dataset::Late, 5), file(Dataset::Quarantine, 2)],
            quarantine_reasons: vec![],
            absent: vec![],
            skipped: None,
            amends: None,
            carried: None,
            damaged: vec![],
            committed_at: Timestamp::from_micros(0),
        }
    }

    fn complete(partitions: &[Marker]) -> Complete {
        let input = |marker: &Marker| Input {
            partition: marker.plan.partition,
            attempt: marker.attempt.clone(),
            skipped: None,
        };
        let Plan { topic, topic_id, window, revision, spec_hash, generation, .. } = partitions[0].plan.clone();
        Complete {
            version: MARKER_VERSION,
            job: JobName::new("j").unwrap(),
            plan: FinishPlan {
                topic,
                topic_id,
                window,
                until: window.end,
                windows: 1,
                shift: None,
                partitions: partitions.iter().map(|marker| marker.plan.partition).collect(),
                empty: vec![],
                revision,
                revisions: Default::default(),
                spec_hash,
                generation,
            },
            attempt: AttemptId::new("c").unwrap(),
            files: vec![],
            rows: 4 * partitions.len() as u64,
            ledger: partitions.iter().fold(Ledger::default(), |sum, marker| sum.plus(&marker.ledger)),
            inputs: partitions.iter().map(input).collect(),
            skipped: None,
            damaged: vec![],
            committed_at: Timestamp::from_micros(0),
        }
    }

    /// What is found after a change to a sound window of two partitions.
    fn found(change: impl FnOnce(&mut Complete, &mut Vec<Marker>)) -> String {
        let mut partitions = vec![partition(0), partition(1)];
        let mut complete = complete(&partitions);
        change(&mut complete, &mut partitions);
        let mut findings = window(&complete, &partitions.iter().collect::<Vec<_>>());
        findings.extend(partitions.iter().flat_map(marker));
        findings.join("; ")
    }

    #[test]
    fn a_sound_window_has_no_findings() {
        assert_eq!(found(|_, _| {}), "");
    }

    #[test]
    fn every_disagreement_is_found() {
        type Change = fn(&mut Complete, &mut Vec<Marker>);
        let changes: [(Change, &str); 14] = [
            (|_, markers| drop(markers.pop()), "partition 1 has no marker"),
            (|_, markers| markers.push(partition(2)), "partition 2 has a marker"),
            (|_, markers| markers[0].attempt = AttemptId::new("other").unwrap(), "is not the attempt"),
            (|_, markers| markers[0].plan.spec_hash = "edited".into(), "another spec or topic"),
            (|_, markers| markers[1].plan.topic_id = TopicId::new("k").unwrap(), "another spec or topic"),
            (|_, markers| (markers[0].ledger.read, markers[0].ledger.skipped) = (21, 1), "not the sum"),
            (|complete, _| complete.rows += 1, "it says 9 rows, its files have 8"),
            (|_, markers| markers[0].files[0].rows = 3, "its files have 7"),
            (|_, markers| markers[0].ledger.kept += 1, "ledger:"),
            (|_, markers| markers[0].plan.read.start = Offset(4), "can't have read all that it owns"),
            (|_, markers| markers[0].plan.read.end = Offset(8), "can't have read all that it owns"),
            (|_, markers| drop(markers[0].files.pop()), "0 in quarantine"),
            (|_, markers| markers[0].files[1].rows = 6, "6 rows are late"),
            (|_, markers| (markers[0].files[1].rows, markers[0].files[2].rows) = (6, 1), "1 in quarantine"),
        ];
        for (change, wanted) in changes {
            let found = found(change);
            assert!(found.contains(wanted), "{wanted}: {found}");
        }
    }

    #[test]
    fn with_a_reduce_the_rows_are_those_of_the_last_step() {
        let reduced = |rows| {
            found(|complete, markers| {
                markers.iter_mut().for_each(|marker| marker.files[0] = file(Dataset::Parts, 4));
                (complete.files, complete.rows) = (vec![file(Dataset::Data, 3)], rows);
            })
        };
        assert_eq!(reduced(3), "");
        assert_eq!(reduced(8), "it says 8 rows, its files have 3");
    }

    /// What is found after a change to a sound marker of a window of 20 readings that begins at offset 3.
    fn found_of_volume(change: impl FnOnce(&mut Marker, &mut VolumeCut)) -> String {
        let mut sound = partition(0);
        sound.ledger = Ledger { records: 6, read: 20, on_time: 20, kept: 20, ..Ledger::default() };
        sound.files.truncate(1);
        let mut cut = VolumeCut::new(Until { amount: Amount::Readings(20), within: None });
        cut.found = Some(Seen { through: Offset(9), records: 6, amount: 20, times: None });
        change(&mut sound, &mut cut);
        sound.plan.sealed_by = SealedBy::Volume(cut);
        marker(&sound).join("; ")
    }

    #[test]
    fn a_window_of_volume_ends_where_it_is_full_and_its_marker_agrees_with_itself() {
        assert_eq!(found_of_volume(|_, _| {}), "");
        assert_eq!(found_of_volume(|_, cut| cut.until.within = Some("1h".parse().unwrap())), "");
        let short = |cut: &mut VolumeCut| cut.until.amount = Amount::Readings(21);
        assert_eq!(found_of_volume(|_, cut| (short(cut), cut.until.within = Some("1h".parse().unwrap())).1), "");
        assert!(found_of_volume(|_, cut| short(cut)).contains("not over before 21"));
        assert!(found_of_volume(|_, cut| cut.found = None).contains("does not say where"));
        assert!(found_of_volume(|marker, _| marker.plan.owned.end = Offset(8)).contains("but it owns"));
        assert!(found_of_volume(|_, cut| cut.found.as_mut().unwrap().through = Offset(8)).contains("but it owns"));
        assert!(found_of_volume(|marker, _| marker.plan.read.start = Offset(2)).contains("and reads"));
        assert!(found_of_volume(|marker, _| marker.ledger.records = 5).contains("other records"));
        assert!(found_of_volume(|_, cut| cut.found.as_mut().unwrap().amount = 22).contains("other records"));
    }

    #[test]
    fn dropped_late_readings_have_no_rows_and_unfit_late_ones_are_in_quarantine() {
        let mut dropped = partition(0);
        dropped.files.remove(1);
        assert_eq!(marker(&dropped), Vec::<String>::new());
        dropped.files[1].rows = 7;
        assert_eq!(marker(&dropped), Vec::<String>::new(), "all five were unfit");
        dropped.files[1].rows = 8;
        assert_eq!(marker(&dropped).len(), 1, "more than there were");
        let mut unfit = partition(0);
        (unfit.files[1].rows, unfit.files[2].rows) = (4, 3);
        assert_eq!(marker(&unfit), Vec::<String>::new());
        // Late readings that the first result dropped, of which the revision found some.
        let mut carried = partition(0);
        carried.files[1].rows = 1;
        assert_eq!(marker(&carried).len(), 1);
        carried.carried = Some(OffsetRange::new(Offset(0), Offset(3)));
        assert_eq!(marker(&carried), Vec::<String>::new());
        carried.files[1].rows = 6;
        assert_eq!(marker(&carried).len(), 1, "more than there were");
    }

    #[test]
    fn readings_that_amend_their_window_are_written_there_and_records_that_are_unreadable_in_quarantine() {
        let mut amended = partition(0);
        (amended.ledger.amended, amended.ledger.undecodable) = (2, 1);
        (amended.files[1].rows, amended.files[2].rows) = (3, 3);
        assert_eq!(marker(&amended), Vec::<String>::new());
        (amended.files[1].rows, amended.files[2].rows) = (4, 2);
        assert_eq!(marker(&amended).len(), 1, "the record has no row");
    }

    #[test]
    fn results_of_nothing_are_found() {
        let mut empty = partition(0);
        empty.ledger = Ledger::default();
        empty.files.truncate(1);
        assert_eq!(marker(&empty), ["it has result rows, but its ledger keeps no reading"]);
        empty.files[0] = file(Dataset::Parts, 4);
        assert_eq!(marker(&empty), ["it has result rows, but its ledger keeps no reading"]);
        empty.files.clear();
        assert_eq!(marker(&empty), Vec::<String>::new());
    }

    /// A revision of partition 0's marker that takes the place of `base`, for late readings at these offsets.
    fn revision(number: u32, base: Option<u32>, more: &[(i64, i64)]) -> Marker {
        let mut marker = partition(0);
        let range = |(start, end): &(i64, i64)| OffsetRange::new(Offset(*start), Offset(*end));
        marker.plan.revision = Revision(number);
        marker.plan.revises = Some(Revises {
            base: base.map(Revision),
            cause: WishId::Late(marker.plan.window.id()),
            more: more.iter().map(range).collect(),
            late: LateRule { policy: LatePolicy::Amend, reach: "7d".parse().unwrap() },
        });
        marker
    }

    fn found_in(markers: &[Marker]) -> String {
        revisions(&markers.iter().collect::<Vec<_>>()).join("; ")
    }

    #[test]
    fn a_revision_takes_the_place_of_the_one_before_it_and_reads_all_that_it_has_read() {
        let (first, second) = (partition(0), revision(1, Some(0), &[(20, 25)]));
        assert_eq!(found_in(&[first.clone(), second.clone(), revision(2, Some(1), &[(19, 25), (40, 41)])]), "");
        for other in [revision(2, Some(0), &[(20, 25)]), revision(2, None, &[(20, 25)])] {
            assert!(found_in(&[first.clone(), second.clone(), other]).contains("r2 does not follow"));
        }
        let (mut other_read, mut other_owned) = (second.clone(), second.clone());
        other_read.plan.read.start = Offset(2);
        other_owned.plan.owned.start = Offset(4);
        for third in [revision(2, Some(1), &[(20, 24)]), revision(2, Some(1), &[(21, 25)])] {
            assert!(found_in(&[first.clone(), second.clone(), third]).contains("r2 does not read or own"));
        }
        for second in [other_read, other_owned] {
            assert!(found_in(&[first.clone(), second]).contains("r1 does not read or own"));
        }
    }

    #[test]
    fn a_partition_that_had_no_offset_for_the_window_begins_with_a_revision_that_owns_none() {
        let mut begun = revision(1, None, &[(20, 25)]);
        assert!(found_in(std::slice::from_ref(&begun)).contains("r1 is the first and owns [3, 9)"));
        begun.plan.owned = OffsetRange::default();
        assert_eq!(found_in(&[begun]), "");
    }

    #[test]
    fn a_revision_for_late_readings_has_taken_in_what_the_one_before_it_did_not_count() {
        let (first, mut second) = (partition(0), revision(1, Some(0), &[(20, 25)]));
        (second.ledger.on_time, second.ledger.late) = (18, 6);
        assert_eq!((taken_in(None, &first), taken_in(Some(&first), &second), taken_in(None, &second)), (0, 4, 24));
        second.plan.revises.as_mut().unwrap().cause = "backfill-b".parse().unwrap();
        assert_eq!(taken_in(Some(&first), &second), 0, "a backfill takes none in");
    }
}
