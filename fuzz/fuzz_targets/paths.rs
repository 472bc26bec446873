//! What a listing of a store may hold: a path that is read as a marker's names exactly one, and ids that are taken from
//! text can't leave their folder.

#![no_main]

use libfuzzer_sys::fuzz_target;
use windrow_protocol::plan::Part;
use windrow_protocol::{AttemptId, JobName, TopicName, WindowId, WorkerId, paths};

fuzz_target!(|text: &str| {
    if let Some((job, window, part, revision)) = paths::parse_marker(text) {
        assert_eq!(paths::marker(&job, window, part, revision), text);
    }
    if let Ok(window) = text.parse::<WindowId>() {
        assert_eq!(window.to_string().parse::<WindowId>(), Ok(window));
    }
    if let Ok(part) = text.parse::<Part>() {
        assert_eq!(part.to_string().parse::<Part>(), Ok(part));
    }
    let ids = [
        JobName::new(text).map(String::from),
        TopicName::new(text).map(String::from),
        WorkerId::new(text).map(String::from),
        AttemptId::new(text).map(String::from),
    ];
    for id in ids.into_iter().flatten() {
        assert!(!id.contains(['/', '\\', '\0']) && id != "." && id != ".." && !id.is_empty());
    }
});
