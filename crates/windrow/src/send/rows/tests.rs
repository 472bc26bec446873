use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::*;
use crate::send::cell::{Kind, Reader};
use crate::send::columns::{Mapping, Wanted};
use crate::send::input::Input;
use crate::send::plan::{Rules, scan};
use crate::send::report::Report;
use crate::send::time::Clock;

const PLENTY: u64 = 1 << 30;

fn rules() -> Rules {
    Rules {
        device: None,
        seq: Seq::Row,
        time_format: None,
        clock: Clock { zone: jiff::tz::TimeZone::UTC, epoch_us: 0 },
        zone_is_given: true,
        reader: Reader::default(),
        skip_bad: false,
    }
}

fn plan(files: &[PathBuf], rules: Rules) -> (Plan, Report) {
    let inputs: Vec<Input> = files.iter().map(|path| Input::open(path, None, None).unwrap()).collect();
    let named: Vec<_> = inputs.iter().map(|input| (input.name.clone(), input.columns().unwrap())).collect();
    let mapping = Mapping::new(&Wanted { time: vec!["t".to_owned()], ..Wanted::default() }, &named).unwrap();
    let mut report = Report::new("topic");
    let plan = scan(rules, mapping, inputs, &mut report, || {}).unwrap();
    (plan, report)
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

fn rows(plan: &Plan) -> Vec<Row> {
    plan.rows(PLENTY).unwrap().map(Result::unwrap).collect()
}

/// File and row of each row, as they are sent.
fn order(plan: &Plan) -> Vec<(usize, u64)> {
    rows(plan).iter().map(|row| (row.file, row.row)).collect()
}

fn seqs(plan: &Plan) -> Vec<u64> {
    rows(plan).iter().filter_map(|row| row.seq).collect()
}

#[test]
fn files_are_merged_by_time_whether_they_are_in_order_or_not_and_equal_times_stay_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let sorted = write(folder.path(), "a.csv", "t,v\n2015-01-01,1\n2015-01-03,2\n2015-01-03,3\n2015-01-05,4\n");
    let unsorted = write(folder.path(), "b.csv", "t,v\n2015-01-04,1\n2015-01-03,2\n2015-01-01,3\n2015-01-03,4\n");
    let (plan, _) = plan(&[sorted, unsorted], rules());
    assert_eq!(plan.files.iter().map(|file| file.is_sorted).collect::<Vec<_>>(), [true, false]);
    assert_eq!(order(&plan), [(0, 1), (1, 3), (0, 2), (0, 3), (1, 2), (1, 4), (1, 1), (0, 4)]);
}

#[test]
fn what_must_be_sorted_and_takes_too_much_memory_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, _) = plan(&[write(folder.path(), "a.csv", "t,v\n2015-01-02,1\n2015-01-01,2\n")], rules());
    let error = plan.rows(100).err().unwrap().to_string();
    assert!(error.contains("--sort-memory-mib") && error.contains("ORDER BY"), "{error}");
}

#[test]
fn a_column_has_one_type_over_all_files_and_a_device_is_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let whole = write(folder.path(), "a.csv", "t,v,w\n2015-01-01,1,x\n");
    let decimal = write(folder.path(), "b.ndjson", "{\"t\": \"2015-01-02\", \"v\": 2.5, \"w\": 7}\n");
    let (plan, _) = plan(&[whole, decimal], rules());
    assert_eq!(plan.kinds, [Some(Kind::F64), Some(Kind::String)]);
    let rows = rows(&plan);
    assert_eq!(rows[0].values, [Some(Value::F64(1.0)), Some(Value::Text("x".to_owned()))]);
    assert_eq!(rows[1].values, [Some(Value::F64(2.5)), Some(Value::Text("7".to_owned()))]);
    assert_eq!(rows.iter().map(|row| row.device.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn row_numbers_are_the_same_whenever_a_file_is_sent_also_after_it_grew_and_no_two_files_share_one() {
    let folder = tempfile::tempdir().unwrap();
    let text = "t,v\n2015-01-01,1\n2015-01-02,2\n";
    let file = write(folder.path(), "a.csv", text);
    let before = seqs(&plan(std::slice::from_ref(&file), rules()).0);
    write(folder.path(), "a.csv", &format!("{text}2015-01-03,3\n"));
    let grown = seqs(&plan(&[file], rules()).0);
    assert_eq!(grown[..2], before[..]);
    // Another name, another first row, another column: other readings, though they have the same times.
    let others = [
        write(folder.path(), "b.csv", text),
        write(folder.path(), "other/a.csv", "t,v\n2015-01-01,9\n2015-01-02,2\n"),
        write(folder.path(), "third/a.csv", "t,w\n2015-01-01,1\n2015-01-02,2\n"),
    ];
    let others: Vec<u64> = others.iter().flat_map(|file| seqs(&plan(std::slice::from_ref(file), rules()).0)).collect();
    assert_eq!(others.iter().chain(&grown).collect::<HashSet<_>>().len(), others.len() + grown.len());
}

#[test]
fn row_numbers_do_not_depend_on_other_files_nor_on_columns_that_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let text = "t,v,w\n2015-01-01,1,x\n2015-01-02,2,y\n";
    let file = write(folder.path(), "a.csv", text);
    let before = seqs(&plan(std::slice::from_ref(&file), rules()).0);
    let wider = write(folder.path(), "0.csv", "u,w,t,v\n5,z,2014-01-01,1\n");
    assert_eq!(seqs(&plan(&[wider, file], rules()).0)[1..], before[..]);
    let line = "{\"t\": \"2015-01-01\", \"v\": 1}\n";
    let file = write(folder.path(), "a.ndjson", line);
    let before = seqs(&plan(std::slice::from_ref(&file), rules()).0);
    write(folder.path(), "a.ndjson", &format!("{line}{{\"a\": 2, \"t\": \"2015-01-02\"}}\n"));
    assert_eq!(seqs(&plan(&[file], rules()).0)[..1], before[..]);
}

#[test]
fn sequence_numbers_may_be_the_times_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.csv", "t,v\n1969-12-31,1\n2015-01-01,1\n2015-01-01,2\n");
    let times = seqs(&plan(std::slice::from_ref(&file), Rules { seq: Seq::Time, ..rules() }).0);
    assert!(times[0] != times[1] && times[1] == times[2], "{times:?}");
    assert_eq!(seqs(&plan(&[file], Rules { seq: Seq::None, ..rules() }).0), Vec::<u64>::new());
}

#[test]
fn a_file_that_changes_between_the_passes_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "a.csv", "t,v\n2015-01-01,1\n2015-01-02,2\n");
    let (plan, _) = plan(&[file], rules());
    write(folder.path(), "a.csv", "t,v\n2015-01-01,1\nnever,2\n");
    let error = plan.rows(PLENTY).unwrap().find_map(Result::err).unwrap();
    assert!(error.to_string().contains("row 2 has changed"), "{error:#}");
}
