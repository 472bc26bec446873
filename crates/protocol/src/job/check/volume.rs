//! Checks of windows of volume.

use super::{JobSpec, Violation};
use crate::WindowSpec;
use crate::duration::{DAY_MS, Length};
use crate::job::{LatePolicy, default_lateness};
use crate::window::Every;

/// The most readings of a window.
const MAX_READINGS: u64 = 1_000_000_000_000;

/// The most bytes of a window: 64 TiB.
const MAX_BYTES: u64 = 1 << 46;

/// The longest `within`, in days: that of a window of fixed length.
const MAX_WITHIN_DAYS: i64 = 366;

impl JobSpec {
    pub(super) fn check_volume(&self, violations: &mut Vec<Violation>) {
        let WindowSpec { every, time_zone, readings, bytes, within, .. } = &self.window;
        let mut refuse = |path: &str, reason, message: String| {
            violations.push(Violation::new(format!("spec.{path}"), reason, message));
        };
        let given = [("readings", readings.is_some()), ("bytes", bytes.is_some()), ("within", within.is_some())];
        if *every != Every::Volume {
            for (path, _) in given.into_iter().filter(|(_, given)| *given) {
                let message = format!("{path} needs every: volume; this job's windows are every: {every}");
                refuse(&format!("window.{path}"), "NOT_APPLICABLE", message);
            }
            return;
        }
        match (readings, bytes) {
            (Some(_), Some(_)) => {
                let message = "a window of volume counts readings or bytes: remove one of the two";
                refuse("window.bytes", "NOT_APPLICABLE", message.to_owned());
            }
            (None, None) => {
                let message = "every: volume needs readings, e.g. readings: 1000000, or bytes, e.g. bytes: 64MiB";
                refuse("window.readings", "MISSING_FIELD", message.to_owned());
            }
            _ => {}
        }
        if readings.is_some_and(|readings| !(1..=MAX_READINGS).contains(&readings)) {
            refuse("window.readings", "OUT_OF_RANGE", format!("a window has 1 to {MAX_READINGS} readings"));
        }
        if bytes.is_some_and(|bytes| !(1..=MAX_BYTES).contains(&bytes.bytes())) {
            refuse("window.bytes", "OUT_OF_RANGE", "a window has 1 B to 64 TiB".to_owned());
        }
        if within.is_some_and(|within| !(1_000..=MAX_WITHIN_DAYS * DAY_MS).contains(&within.millis())) {
            let most = Length::from_millis(MAX_WITHIN_DAYS * DAY_MS);
            refuse("window.within", "OUT_OF_RANGE", format!("within is 1s to {most}"));
        }
        if time_zone != "UTC" {
            let message = "windows of volume begin at an offset, not at a local time: remove timeZone";
            refuse("window.timeZone", "NOT_APPLICABLE", message.to_owned());
        }
        self.check_no_lateness(&mut refuse);
    }

    /// What is written as the default can't be told from what is left out, and is ignored.
    fn check_no_lateness(&self, refuse: &mut impl FnMut(&str, &'static str, String)) {
        if self.lateness != default_lateness() {
            let message = "a window of volume takes readings as they come, so none is late: remove lateness";
            refuse("lateness", "NOT_APPLICABLE", message.to_owned());
        }
        if self.late != LatePolicy::default() {
            let message = "a window of volume takes readings as they come, so none is late: remove late";
            refuse("late", "NOT_APPLICABLE", message.to_owned());
        }
    }
}
