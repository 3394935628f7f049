//! How far long work is, on a terminal only.

use indicatif::{ProgressBar, ProgressStyle};

/// A line on stderr that counts jobs.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Counts to `total`, or up when nobody knows how many there are.
    pub(crate) fn new(what: &'static str, total: Option<usize>) -> Self {
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
        bar.set_message(what);
        Self(bar)
    }

    /// So many more.
    pub(crate) fn more(&self, jobs: u64) {
        self.0.inc(jobs);
    }

    /// Writes something else meanwhile.
    pub(crate) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Takes the line away.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
