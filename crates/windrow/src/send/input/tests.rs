use std::path::PathBuf;

use super::*;

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn refused(name: &str, content: &[u8]) -> String {
    let (_folder, path) = file(name, content);
    format!("{:#}", Input::open(&path, None, None).unwrap_err())
}

fn cells(name: &str, content: &[u8], columns: &[&str]) -> Vec<Result<Vec<Raw>, String>> {
    let (_folder, path) = file(name, content);
    let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    let records = Input::open(&path, None, None).unwrap().records(&columns).unwrap();
    records.map(|record| record.unwrap().cells).collect()
}

fn text(text: &str) -> Raw {
    Raw::Text(text.to_owned())
}

#[test]
fn what_is_no_text_file_is_named_for_what_it_is() {
    assert!(refused("a.csv", b"").contains("is empty"));
    assert!(refused("a.csv", b"PAR1...").contains("--format parquet"));
    assert!(refused("a.csv", &[0x1f, 0x8b, 8]).contains("gunzip"));
    assert!(refused("a.csv", b"\xff\xfea\0").contains("UTF-16"));
    assert!(refused("a.csv", b"\x7fELF\0\0").contains("binary"));
    assert!(refused("a.xls", b"a,b").contains("--format"));
    assert!(refused("a.json", b"[{\"a\": 1}]").contains("jq"));
    assert!(refused("a.parquet", b"a,b").contains("PAR1"));
    let folder = tempfile::tempdir().unwrap();
    assert!(format!("{:#}", Input::open(folder.path(), None, None).unwrap_err()).contains("is a directory"));
    assert!(format!("{:#}", Input::open(&folder.path().join("x"), None, None).unwrap_err()).contains("No such file"));
    assert!(Input::open(Path::new("-"), None, None).is_err());
}

#[test]
fn a_byte_order_mark_line_ends_of_windows_and_a_comma_at_the_end_change_nothing() {
    let rows = cells("a.csv", b"\xef\xbb\xbft,v\r\n1, 2,\r\n3,\"4,5\"\r\n", &["t", "v"]);
    assert_eq!(rows, [Ok(vec![text("1"), text(" 2")]), Ok(vec![text("3"), text("4,5")])]);
}

#[test]
fn a_row_of_another_length_is_bad_and_the_next_is_read() {
    let rows = cells("a.csv", b"t,v\n1\n2,3,4\n5,6\n", &["v"]);
    assert!(rows[0].as_ref().unwrap_err().contains("has 1 cells, the header has 2"), "{rows:?}");
    assert!(rows[1].is_err());
    assert_eq!(rows[2], Ok(vec![text("6")]));
}

#[test]
fn the_delimiter_is_the_one_that_the_header_has_most_of() {
    assert_eq!(cells("a.csv", b"t;v\n1;2,5\n", &["v"]), [Ok(vec![text("2,5")])]);
    assert_eq!(cells("a.tsv", b"t\tv\n1\t2\n", &["v"]), [Ok(vec![text("2")])]);
    assert_eq!(csv::sniff(b"\"a;b;c\",d\n"), b',');
}

#[test]
fn text_in_another_encoding_spoils_only_the_rows_that_need_it() {
    let rows = cells("a.csv", b"t,v\n1,\xe9\n2,3\n", &["v"]);
    assert_eq!(rows[0], Ok(vec![Raw::Unfit("text that is not UTF-8")]));
    assert_eq!(rows[1], Ok(vec![text("3")]));
}

#[test]
fn a_column_that_is_there_twice_is_refused() {
    let (_folder, path) = file("a.csv", b"t,v,v\n1,2,3\n");
    let error = format!("{:#}", Input::open(&path, None, None).unwrap().columns().unwrap_err());
    assert!(error.contains("\"v\" twice"), "{error}");
}

#[test]
fn members_of_nested_objects_are_columns_with_dots_and_a_malformed_line_is_one_bad_row() {
    let content = b"{\"t\": 1, \"values\": {\"a.b\": 2.5, \"on\": true}}\n\n{\"t\": \n{\"t\": \"x\", \"l\": [1]}\n";
    let rows = cells("a.ndjson", content, &["t", "values.a.b", "values.on", "l"]);
    assert_eq!(rows[0], Ok(vec![Raw::I64(1), Raw::F64(2.5), Raw::Bool(true), Raw::Absent]));
    assert!(rows[1].is_err());
    assert_eq!(rows[2], Ok(vec![text("x"), Raw::Absent, Raw::Absent, Raw::Unfit("a list")]));
    let (_folder, path) = file("a.ndjson", content);
    assert_eq!(Input::open(&path, None, None).unwrap().columns().unwrap(), ["l", "t", "values.a.b", "values.on"]);
}
