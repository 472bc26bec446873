//! A bar on stderr for what takes more than a second. Nothing is drawn where stderr is no terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done by then needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Progress {
    bar: ProgressBar,
    since: Instant,
    shown: bool,
}

impl Progress {
    /// Counts up to `total` of something.
    pub fn new(verb: &str, total: u64, noun: &str) -> Self {
        Self::with(ProgressBar::new(total), &format!("{verb}  {{bar:40}} {{pos}}/{{len}} {noun}"))
    }

    /// Says how it goes, without a known end.
    pub fn spinner(verb: &str) -> Self {
        Self::with(ProgressBar::new_spinner(), &format!("{verb}  {{msg}}"))
    }

    fn with(bar: ProgressBar, template: &str) -> Self {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        // The templates are this file's own; one that can't be read would leave the plain bar.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, since: Instant::now(), shown: false }
    }

    fn look(&mut self) {
        if !self.shown && self.since.elapsed() >= PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
    }

    pub fn inc(&mut self, by: u64) {
        self.look();
        self.bar.inc(by);
    }

    pub fn say(&mut self, message: String) {
        self.look();
        self.bar.set_message(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
