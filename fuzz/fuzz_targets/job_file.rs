//! What a user may hand to `windrow apply`: any text is a job, or what is wrong with it and where.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windrow_protocol::job::{Limits, Violation};

#[allow(dead_code)] // Files and SQL are not read here.
#[rustfmt::skip] // It would look for the tests beside it.
#[path = "../../crates/windrow/src/job_file.rs"]
mod job_file;

fuzz_target!(|text: &str| {
    let source = job_file::Source { name: "fuzz".to_owned(), text: text.to_owned() };
    let documents = match source.documents() {
        Ok(documents) => documents,
        Err(problem) => return assert!(!problem.to_string().is_empty()),
    };
    for document in documents {
        let _ = (document.name(), document.line());
        // Where SQL is wrong is said within its text.
        for place in [(1, 1), (2, 3), (90, 1)] {
            let violation = Violation { position: Some(place), ..Violation::new("spec.map", "SQL_SYNTAX", "") };
            drop(document.problem(violation).to_string());
        }
        match document.job() {
            Err(problem) => drop((problem.to_string(), problem.value())),
            Ok(file) => {
                for violation in file.check(Limits::default()) {
                    drop(document.problem(violation).to_string());
                }
                let _ = file.spec.hash();
            }
        }
    }
});
