//! What is looked at before a job is stored.

use tonic::{Code, Status};
use windrow_protocol::JobFile;
use windrow_protocol::job::{Limits, Violation};
use windrow_wire::{convert, status, v1};

use super::Api;

/// What the checks of one job found.
#[derive(Debug, Default)]
pub struct Checked {
    pub checks: Vec<v1::Check>,
    pub violations: Vec<Violation>,
    pub warnings: Vec<String>,
    /// The services that a check needs were not there.
    pub unavailable: Option<String>,
}

impl Checked {
    pub fn done(&mut self, name: &str, violations: Vec<Violation>, note: Option<String>) {
        let result = if violations.is_empty() { v1::CheckResult::Pass } else { v1::CheckResult::Fail };
        self.checks.push(v1::Check {
            name: name.to_owned(),
            result: result.into(),
            note: note.clone().unwrap_or_default(),
            violations: violations.iter().map(message).collect(),
        });
        self.violations.extend(violations);
        self.warnings.extend(note);
    }

    pub fn skipped(&mut self, name: &str, note: String) {
        let result = v1::CheckResult::Skipped.into();
        self.checks.push(v1::Check { name: name.to_owned(), result, note, violations: vec![] });
    }

    /// An error if the job may not be stored.
    pub fn into_result(self) -> Result<Vec<String>, Status> {
        // What is wrong for certain comes first: waiting for the log would not mend it.
        if !self.violations.is_empty() {
            return Err(status::invalid(&self.violations));
        }
        if let Some(what) = self.unavailable {
            let message = format!("the topic could not be checked: {what}");
            return Err(status::error(Code::Unavailable, "LOG_UNAVAILABLE", message));
        }
        Ok(self.warnings)
    }
}

fn message(violation: &Violation) -> v1::FieldViolation {
    let (line, column) = violation.position.unwrap_or_default();
    v1::FieldViolation {
        path: violation.path.clone(),
        reason: violation.reason.clone(),
        message: violation.message.clone(),
        line,
        column,
    }
}

impl Api {
    /// Runs every check; the SQL only once its columns are right, since its errors would mislead.
    pub(super) async fn check(&self, job: &v1::Job) -> (Option<JobFile>, Checked) {
        let mut checked = Checked::default();
        let file = match convert::job_file(job) {
            Ok(file) => file,
            Err(violation) => {
                checked.done("fields", vec![violation], None);
                checked.skipped("SQL", "the fields are wrong".to_owned());
                checked.skipped("topic", "the fields are wrong".to_owned());
                return (None, checked);
            }
        };
        let violations = file.check(Limits::default());
        let sound = violations.is_empty();
        checked.done("fields", violations, None);
        if sound {
            checked.done("SQL", windrow_processing::validate(&file.spec).await, None);
        } else {
            checked.skipped("SQL", "the fields are wrong".to_owned());
        }
        self.check_topic(&file, &mut checked).await;
        (Some(file), checked)
    }
}
