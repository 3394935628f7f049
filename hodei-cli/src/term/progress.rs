//! Progress of long work, shown only on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A line on stderr that counts jobs.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Counts to `total`, or up if the total is unknown. `verb` says what happened to the jobs, such as `ended`.
    pub(crate) fn new(verb: &'static str, total: Option<usize>) -> Self {
        let bar = match total {
            Some(total) => ProgressBar::new(total as u64),
            None => ProgressBar::no_length(),
        };
        let template = match total {
            Some(_) => "{bar:30} {human_pos}/{human_len} jobs {msg} ({per_sec})",
            None => "{human_pos} jobs {msg} ({per_sec})",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(verb);
        Self(bar)
    }

    /// Adds a number of jobs.
    pub(crate) fn more(&self, jobs: u64) {
        self.0.inc(jobs);
    }

    /// Hides the line while `write` writes other text.
    pub(crate) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Removes the line.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
