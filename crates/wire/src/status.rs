//! Errors on the wire: `google.rpc.ErrorInfo` with every one, and a `google.rpc.BadRequest` with what is wrong in a
//! request. Written by the server, read by the client, both here.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use windrow_protocol::job::Violation;

/// `ErrorInfo.domain` of windrow's errors.
pub const DOMAIN: &str = "windrow";

/// An error with a stable reason in `UPPER_SNAKE`.
pub fn error(code: Code, reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

/// INVALID_ARGUMENT with one violation per mistake; the message has a line for each.
pub fn invalid(violations: &[Violation]) -> Status {
    let reason = violations.first().map_or("INVALID", |violation| violation.reason.as_str());
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    let field = |violation: &Violation| FieldViolation {
        field: violation.path.clone(),
        description: at(violation) + &violation.message,
        reason: violation.reason.clone(),
        localized_message: None,
    };
    details.set_bad_request(violations.iter().map(field).collect::<Vec<_>>());
    let lines: Vec<String> = violations.iter().map(describe).collect();
    Status::with_error_details(Code::InvalidArgument, lines.join("\n"), details)
}

/// INVALID_ARGUMENT for one field of a request.
pub fn invalid_field(field: &str, reason: &str, message: impl Into<String>) -> Status {
    invalid(&[Violation::new(field, reason, message)])
}

/// A violation in one line.
pub fn describe(violation: &Violation) -> String {
    let place = match (violation.path.as_str(), violation.position) {
        (path, Some((line, column))) => format!("{path} (SQL line {line}, column {column}): "),
        ("", None) => String::new(),
        (path, None) => format!("{path}: "),
    };
    format!("{place}{} [{}]", violation.message, violation.reason)
}

fn at(violation: &Violation) -> String {
    violation.position.map(|(line, column)| format!("SQL line {line}, column {column}: ")).unwrap_or_default()
}

/// The reason of an error; empty for one that windrow did not make.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason).unwrap_or_default()
}

/// What is wrong in the request, as far as the error says.
pub fn violations(status: &Status) -> Vec<Violation> {
    let fields = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
    fields.into_iter().map(|field| Violation::new(field.field, &field.reason, field.description)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_arrive_as_they_were_sent() {
        let sent =
            [Violation::new("spec.map", "EMPTY_SQL", "no SQL"), Violation::new("spec.late", "UNKNOWN_VALUE", "x")];
        let status = invalid(&sent);
        assert_eq!(violations(&status), sent);
        assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "EMPTY_SQL".to_owned()));
        assert_eq!(status.message(), "spec.map: no SQL [EMPTY_SQL]\nspec.late: x [UNKNOWN_VALUE]");
    }

    #[test]
    fn errors_of_others_have_no_reason() {
        assert_eq!(reason(&Status::unavailable("gone")), "");
        assert_eq!(violations(&Status::unavailable("gone")), []);
    }
}
