//! A job file from generic JSON, as YAML files and API messages arrive: what does not fit the job's structure is named by
//! its path, with what is allowed there or was likely meant.

use serde_json::Value;
use windrow_protocol::JobFile;
use windrow_protocol::job::{Violation, closest};

/// Reads a job file, or says at which path it is none.
pub fn read(value: Value) -> Result<JobFile, Violation> {
    // Serde takes a list for an object whose fields come in their order.
    for pointer in ["/metadata", "/spec", "/spec/source", "/spec/source/json", "/spec/window", "/spec/output"] {
        if value.pointer(pointer).is_some_and(Value::is_array) {
            let path = pointer.trim_start_matches('/').replace('/', ".");
            return Err(Violation::new(path, "WRONG_TYPE", "a list stands here; expected fields, `name: value` each"));
        }
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => String::new(),
            path => path,
        };
        violation(path, &error.into_inner().to_string())
    })
}

/// Serde's messages are texts of a fixed form, the same for every format: `unknown field `x`, expected ...`.
fn violation(path: String, message: &str) -> Violation {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let first = quoted.next().unwrap_or_default();
    let allowed: Vec<&str> = quoted.collect();
    let list = allowed.join(", ");
    let meant = closest(first, &allowed);
    let meant = meant.map_or_else(|| ".".to_owned(), |name| format!("; did you mean `{name}`?"));
    match message.split_once(" `").map_or(message, |(kind, _)| kind) {
        "unknown field" => {
            Violation::new(path, "UNKNOWN_FIELD", format!("field `{first}` is not known here{meant} Known are: {list}"))
        }
        "unknown variant" => {
            Violation::new(path, "UNKNOWN_VALUE", format!("`{first}` is not allowed here{meant} Allowed are: {list}"))
        }
        "missing field" => {
            let path = if path.is_empty() { first.to_owned() } else { format!("{path}.{first}") };
            Violation::new(path, "MISSING_FIELD", format!("field `{first}` is missing"))
        }
        kind if kind.starts_with("invalid type: ") => {
            let hint = if message.ends_with("expected a string") { "; put it in quotes" } else { "" };
            Violation::new(path, "WRONG_TYPE", format!("{message}{hint}"))
        }
        _ => Violation::new(path, "INVALID_VALUE", message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job() -> Value {
        json!({"apiVersion": "windrow/v1", "kind": "Job", "metadata": {"name": "j"},
            "spec": {"source": {"topic": "t", "values": {"v": "f64"}}, "window": {"every": "1h"}, "map": "SELECT 1"}})
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let mut value = job();
        change(&mut value);
        let violation = read(value).unwrap_err();
        format!("{} {}: {}", violation.path, violation.reason, violation.message)
    }

    #[test]
    fn every_structural_mistake_is_named_with_its_path_and_what_was_meant() {
        let said = refused(|job| job["spec"]["latenes"] = json!("10m"));
        assert!(said.starts_with("spec.latenes UNKNOWN_FIELD") && said.contains("did you mean `lateness`?"), "{said}");
        let said = refused(|job| job["spec"]["source"]["values"]["v"] = json!("f46"));
        assert!(said.starts_with("spec.source.values.v UNKNOWN_VALUE") && said.contains("f64"), "{said}");
        let said = refused(|job| drop(job["spec"]["source"].as_object_mut().unwrap().remove("topic")));
        assert!(said.starts_with("spec.source.topic MISSING_FIELD"), "{said}");
        let said = refused(|job| job["metadata"]["name"] = json!("Ä"));
        assert!(said.starts_with("metadata.name INVALID_VALUE") && said.contains("a-z"), "{said}");
        let said = refused(|job| job["spec"]["source"]["tags"] = json!(["a", 1]));
        assert!(said.starts_with("spec.source.tags[1] WRONG_TYPE") && said.contains("quotes"), "{said}");
        let said = refused(|job| job["metadata"] = json!(["x"]));
        assert!(said.starts_with("metadata WRONG_TYPE"), "{said}");
        assert_eq!(read(json!(null)).unwrap_err().path, "");
    }
}
