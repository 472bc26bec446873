//! What is looked at before a job is stored.

use tonic::{Code, Status};
use windrow_ports::LogError;
use windrow_protocol::JobFile;
use windrow_protocol::job::{Limits, Violation};
use windrow_wire::{convert, v1};

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
    fn done(&mut self, name: &str, violations: Vec<Violation>, note: Option<String>) {
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

    fn skipped(&mut self, name: &str, note: String) {
        let result = v1::CheckResult::Skipped.into();
        self.checks.push(v1::Check { name: name.to_owned(), result, note, violations: vec![] });
    }

    /// An error if the job may not be stored.
    pub fn into_result(self) -> Result<Vec<String>, Status> {
        if let Some(what) = self.unavailable {
            return Err(Status::unavailable(format!("the topic could not be checked: {what}")));
        }
        if self.violations.is_empty() {
            return Ok(self.warnings);
        }
        let lines: Vec<String> = self.violations.iter().map(describe).collect();
        Err(Status::new(Code::InvalidArgument, lines.join("\n")))
    }
}

fn describe(violation: &Violation) -> String {
    let at = violation.position.map(|(line, column)| format!(" (SQL line {line}, column {column})"));
    format!("{}{}: {} [{}]", violation.path, at.unwrap_or_default(), violation.message, violation.reason)
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
            Err(error) => {
                checked.done("fields", vec![Violation::new("spec", "MALFORMED", error)], None);
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

    async fn check_topic(&self, file: &JobFile, checked: &mut Checked) {
        let (name, path) = (&file.spec.source.topic, "spec.source.topic");
        let refuse = |reason, message: String| vec![Violation::new(path, reason, message)];
        match self.parts.log.topic(name).await {
            Ok(topic) if topic.compacted => {
                let message = format!(
                    "topic {name} is compacted (cleanup.policy): its records vanish, so counting them is impossible"
                );
                checked.done("topic", refuse("COMPACTED_TOPIC", message), None);
            }
            Ok(topic) if topic.append_time => {
                let message = format!(
                    "topic {name} has message.timestamp.type=LogAppendTime: its time index is not of event time; set \
                     it to CreateTime"
                );
                checked.done("topic", refuse("LOG_APPEND_TIME", message), None);
            }
            Ok(_) => checked.done("topic", vec![], None),
            Err(LogError::NoTopic(_)) => {
                checked.done("topic", vec![], Some(format!("topic {name} does not exist yet; the job waits for it")));
            }
            Err(error) => {
                checked.skipped("topic", error.to_string());
                checked.unavailable = Some(error.to_string());
            }
        }
    }
}
