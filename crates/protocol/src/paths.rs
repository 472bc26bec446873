//! Every object path, in one place. Nothing else formats a path.
//!
//! Paths are relative to the store's root. All segments are validated ids, so no input can escape its folder.

use std::collections::BTreeMap;

use crate::plan::Part;
use crate::{AttemptId, JobName, PartitionId, Revision, WindowId};

/// A folder of a job that readers look into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dataset {
    /// The job's result: the reduce's output where there is a reduce, else the map's.
    Data,
    /// Map outputs behind a reduce.
    Parts,
    /// Readings that came after their window was sealed.
    Late,
    /// Readings and records that could not be used, with the reason.
    Quarantine,
}

impl Dataset {
    /// The folder's name under the job's root.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Parts => "parts",
            Self::Late => "late",
            Self::Quarantine => "quarantine",
        }
    }
}

/// `<job>/<dataset>`: what `read_parquet('<root>/<job>/data/**/*.parquet')` walks.
pub fn dataset(job: &JobName, dataset: Dataset) -> String {
    format!("{job}/{}", dataset.folder())
}

/// Final path of a published file. It carries neither attempt nor revision: publishing a newer revision replaces the
/// file in one atomic copy.
pub fn file(job: &JobName, dataset: Dataset, window: WindowId, part: Part, number: u32) -> String {
    let folder = dataset.folder();
    match part {
        Part::Partition(partition) => {
            format!("{job}/{folder}/window={window}/part-{partition:05}-{number:03}.parquet", partition = partition.0)
        }
        Part::Finish => format!("{job}/{folder}/window={window}/part-reduce-{number:03}.parquet"),
    }
}

/// `<job>/revisions`: what the files under `data/` were before they were replaced.
pub fn revisions(job: &JobName) -> String {
    format!("{job}/revisions")
}

/// Where the file of a superseded revision is kept; `path` is where readers found it. `None` for a file that is not of the
/// dataset `data`: others are not kept.
pub fn kept(job: &JobName, window: WindowId, revision: Revision, path: &str) -> Option<String> {
    let name = path.strip_prefix(&format!("{}/window={window}/", dataset(job, Dataset::Data)))?;
    Some(format!("{}/window={window}/{revision}/{name}", revisions(job)))
}

/// `<job>/_staging/`: all attempts' files.
pub fn staging(job: &JobName) -> String {
    format!("{job}/_staging")
}

/// Whose a staged file is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StagedBy {
    pub job: JobName,
    pub window: WindowId,
    pub part: Part,
    pub attempt: AttemptId,
}

/// Whose a staged file is, by its path; `None` for a path that is no staged file's, or another spelling of one.
pub fn parse_staged(path: &str) -> Option<StagedBy> {
    let (job, rest) = path.split_once("/_staging/")?;
    let [window, part, name, _file] = rest.split('/').collect::<Vec<_>>()[..] else { return None };
    let staged = StagedBy {
        job: JobName::new(job).ok()?,
        window: window.parse().ok()?,
        part: part.parse().ok()?,
        attempt: AttemptId::new(name).ok()?,
    };
    let folder = attempt(&staged.job, staged.window, staged.part, &staged.attempt);
    path.strip_prefix(&folder)?.starts_with('/').then_some(staged)
}

/// The folder of one attempt's files.
pub fn attempt(job: &JobName, window: WindowId, part: Part, attempt: &AttemptId) -> String {
    format!("{job}/_staging/{window}/{part}/{attempt}")
}

/// Where an attempt stages one file of a dataset.
pub fn staged(
    job: &JobName,
    window: WindowId,
    part: Part,
    attempt_id: &AttemptId,
    dataset: Dataset,
    number: u32,
) -> String {
    format!("{}/{}-{number:03}.parquet", attempt(job, window, part, attempt_id), dataset.folder())
}

/// Where an attempt at a revision stages its copy of a file that it will replace.
pub fn staged_copy(job: &JobName, window: WindowId, part: Part, attempt_id: &AttemptId, number: u32) -> String {
    format!("{}/before-{number:03}.parquet", attempt(job, window, part, attempt_id))
}

/// `<job>/_commits`: all markers.
pub fn commits(job: &JobName) -> String {
    format!("{job}/_commits")
}

/// `<job>/_commits/<window>`: the markers of one window.
pub fn window_commits(job: &JobName, window: WindowId) -> String {
    format!("{job}/_commits/{window}")
}

/// `<job>/_commits/_expired`: what is known of windows whose retention has ended.
pub fn expired_folder(job: &JobName) -> String {
    format!("{job}/_commits/_expired")
}

/// The n-th record of windows that are gone, from 1; each tells of all before it, too.
pub fn expired(job: &JobName, number: u64) -> String {
    format!("{}/{number:012}.json", expired_folder(job))
}

/// The number of a record of windows that are gone, by its path.
pub fn parse_expired(path: &str) -> Option<u64> {
    let name = path.split_once("/_commits/_expired/")?.1;
    name.strip_suffix(".json")?.parse().ok()
}

/// `<job>/<dataset>/window=<window>`, or that of the revisions: where the files of a window lie.
pub fn window_folders(job: &JobName, window: WindowId) -> Vec<String> {
    let datasets = [Dataset::Data, Dataset::Parts, Dataset::Late, Dataset::Quarantine];
    let folders = datasets.map(|of| dataset(job, of)).into_iter().chain([revisions(job)]);
    folders.map(|folder| format!("{folder}/window={window}")).collect()
}

/// The window that a published or kept file is of.
pub fn window_of(path: &str) -> Option<WindowId> {
    path.split('/').find_map(|segment| segment.strip_prefix("window="))?.parse().ok()
}

/// The marker of a batch, or of a window's completeness.
pub fn marker(job: &JobName, window: WindowId, part: Part, revision: Revision) -> String {
    match part {
        Part::Partition(partition) => format!("{job}/_commits/{window}/{partition}.{revision}.json"),
        Part::Finish => format!("{job}/_commits/{window}/_complete.{revision}.json"),
    }
}

/// What a marker's path says about it; `None` for a path that is no marker, or another spelling of one.
pub fn parse_marker(path: &str) -> Option<(JobName, WindowId, Part, Revision)> {
    let (job, rest) = path.split_once("/_commits/")?;
    let (window, name) = rest.split_once('/')?;
    let (part, revision) = name.strip_suffix(".json")?.split_once(".r")?;
    let part = match part {
        "_complete" => Part::Finish,
        partition => Part::Partition(PartitionId(partition.parse().ok()?)),
    };
    let job = JobName::new(job).ok()?;
    let (window, revision) = (window.parse().ok()?, Revision(revision.parse().ok()?));
    (marker(&job, window, part, revision) == path).then_some((job, window, part, revision))
}

/// The newest revision of each part of a window, of the paths of its markers.
pub fn newest<'a>(markers: impl IntoIterator<Item = &'a str>) -> BTreeMap<Part, Revision> {
    let mut newest = BTreeMap::new();
    for (_, _, part, revision) in markers.into_iter().filter_map(parse_marker) {
        let held = newest.entry(part).or_insert(revision);
        *held = revision.max(*held);
    }
    newest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::window::VolumeId;
    use crate::{Offset, Timestamp};

    #[test]
    fn a_path_tells_its_window_and_a_record_its_number() {
        let (job, window) = (JobName::new("j").unwrap(), WindowId::Time(Timestamp::from_micros(0)));
        let path = file(&job, Dataset::Late, window, Part::Finish, 7);
        assert_eq!(window_of(&path), Some(window));
        assert!(window_folders(&job, window).iter().any(|folder| path.starts_with(&format!("{folder}/"))));
        assert_eq!((window_of("j/data/x.parquet"), parse_expired(&expired(&job, 12))), (None, Some(12)));
        assert_eq!(parse_marker(&expired(&job, 12)), None);
    }

    #[test]
    fn paths_are_those_that_the_documentation_names() {
        let job = JobName::new("congestion").unwrap();
        let window = "2015-09-01T05:00:00Z".parse().unwrap();
        let attempt_id = AttemptId::new("a1").unwrap();
        let part = Part::Partition(PartitionId(3));
        assert_eq!(
            file(&job, Dataset::Data, window, part, 0),
            "congestion/data/window=20150901T050000Z/part-00003-000.parquet"
        );
        assert_eq!(marker(&job, window, part, Revision(0)), "congestion/_commits/20150901T050000Z/3.r0.json");
        let of_volume = "p3-o1234".parse().unwrap();
        assert_eq!(
            file(&job, Dataset::Data, of_volume, part, 0),
            "congestion/data/window=p3-o1234/part-00003-000.parquet"
        );
        assert_eq!(
            marker(&job, window, Part::Finish, Revision(1)),
            "congestion/_commits/20150901T050000Z/_complete.r1.json"
        );
        assert_eq!(
            staged(&job, window, part, &attempt_id, Dataset::Late, 1),
            "congestion/_staging/20150901T050000Z/3/a1/late-001.parquet"
        );
        assert_eq!(
            staged_copy(&job, window, part, &attempt_id, 2),
            "congestion/_staging/20150901T050000Z/3/a1/before-002.parquet"
        );
        assert_eq!(dataset(&job, Dataset::Quarantine), "congestion/quarantine");
        assert_eq!(
            kept(&job, window, Revision(1), &file(&job, Dataset::Data, window, part, 0)).as_deref(),
            Some("congestion/revisions/window=20150901T050000Z/r1/part-00003-000.parquet")
        );
        assert_eq!(kept(&job, window, Revision(1), &file(&job, Dataset::Late, window, part, 0)), None);
    }

    #[test]
    fn folders_hold_what_is_named_after_them() {
        let job = JobName::new("j").unwrap();
        let window = "2015-09-01T05:00:00Z".parse().unwrap();
        let (part, attempt_id) = (Part::Partition(PartitionId(3)), AttemptId::new("a").unwrap());
        for dataset_of in [Dataset::Data, Dataset::Parts, Dataset::Late, Dataset::Quarantine] {
            let file = file(&job, dataset_of, window, part, 0);
            assert_eq!(file.split_once("/window=").map(|(folder, _)| folder), Some(&*dataset(&job, dataset_of)));
        }
        let within = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        assert!(within(&attempt(&job, window, part, &attempt_id), &staging(&job)));
        assert!(within(&marker(&job, window, part, Revision(0)), &window_commits(&job, window)));
        assert!(within(&window_commits(&job, window), &commits(&job)));
    }

    #[test]
    fn what_is_no_marker_is_not_read_as_one() {
        let paths = [
            "",
            "j/_commits/20150901T050000Z/3.json",
            "j/data/20150901T050000Z/3.r0.json",
            "j/_commits/x/3.r0.json",
            "j/_commits/20150901T050000Z/3.r0.tmp",
            "j/_commits/20150901T050000Z/3.r0.json.tmp",
            "j/_commits/20150901T050000Z/3.r0.json/more",
            "j/_commits/20150901T050000Z/03.r0.json",
            "j/_commits/20150901T050000Z/3.r+0.json",
            "j/_commits/20150901T05000Z/3.r0.json",
            "j/_commits/2015-09-01T05:00:00Z/3.r0.json",
            "j/_commits/p3-o01/3.r0.json",
        ];
        for path in paths {
            assert_eq!(parse_marker(path), None, "{path}");
        }
    }

    #[test]
    fn of_each_part_of_a_window_the_newest_revision_counts() {
        let names = ["3.r9", "3.r10", "3.r2", "4.r0", "_complete.r1", "_complete.r0", "notes"];
        let paths = names.map(|name| format!("j/_commits/20150901T050000Z/{name}.json"));
        let parts = [(3, 10), (4, 0)].map(|(p, r)| (Part::Partition(PartitionId(p)), Revision(r)));
        let found = newest(paths.iter().map(String::as_str));
        assert_eq!(found, parts.into_iter().chain([(Part::Finish, Revision(1))]).collect());
    }

    #[test]
    fn a_staged_file_says_whose_it_is_and_other_paths_say_nothing() {
        let staged_by = StagedBy {
            job: JobName::new("j").unwrap(),
            window: "2015-09-01T05:00:00Z".parse().unwrap(),
            part: Part::Finish,
            attempt: AttemptId::new("a1").unwrap(),
        };
        let StagedBy { job, window, part, attempt } = &staged_by;
        let path = staged(job, *window, *part, attempt, Dataset::Data, 0);
        assert_eq!(parse_staged(&path), Some(staged_by.clone()));
        for path in [
            "j/_staging/20150901T050000Z/finish/a1",
            "j/_staging/20150901T050000Z/03/a1/data-000.parquet",
            "j/_staging/20150901T050000Z/finish/a1/more/data-000.parquet",
            "j/_commits/20150901T050000Z/finish/a1/data-000.parquet",
        ] {
            assert_eq!(parse_staged(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn marker_paths_round_trip(job in "[a-z0-9][a-z0-9-]{0,62}", ms in Timestamp::MIN.millis()..=Timestamp::MAX.millis(), partition in prop::option::of(0i32..100_000), revision in 0u32..9_999) {
            let job = JobName::new(job).unwrap();
            let part = partition.map_or(Part::Finish, |p| Part::Partition(PartitionId(p)));
            let of_volume = VolumeId { partition: PartitionId(partition.unwrap_or(0)), offset: Offset(ms.abs()) };
            for window in [WindowId::Time(Timestamp::from_millis(ms)), WindowId::Volume(of_volume)] {
                let path = marker(&job, window, part, Revision(revision));
                prop_assert_eq!(parse_marker(&path), Some((job.clone(), window, part, Revision(revision))));
            }
        }
    }
}
