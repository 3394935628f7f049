//! Makes the kernel kill jobs before this program when memory runs out.
//!
//! A process inherits the score (`oom_score_adj` in proc(5)) of its parent, and an unprivileged one cannot lower its
//! score below the inherited one. So this program raises its own score while it starts a process, and then restores it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Default distance of a job's score from that of this program, in thousandths of the machine's memory.
const JOB_SCORE_OFFSET: i32 = 100;
/// The highest score.
const MAX_SCORE: i32 = 1000;

/// The score of this process.
static SCORE: Mutex<Score> =
    Mutex::new(Score { file: None, is_off: false, refused: None, own: 0, raised: 0, starts: 0 });
/// Notified when the score is restored.
static RESTORED: Condvar = Condvar::new();

struct Score {
    file: Option<File>,
    /// Whether the score cannot be changed.
    is_off: bool,
    /// A requested score that the system refused: jobs have the default one instead.
    refused: Option<i32>,
    own: i32,
    raised: i32,
    /// Number of starts in progress.
    starts: usize,
}

/// Keeps the score of this process at that of a job until it is dropped.
#[derive(Debug)]
#[must_use]
pub(in crate::executor) struct Raised;

/// Raises the score of this process to `wanted`, or by default above its own, until the result is dropped. Returns
/// `None` if the system refuses. Blocks while starts with another score are in progress.
pub(in crate::executor) fn raise(wanted: Option<i32>) -> Option<Raised> {
    let mut score = lock();
    loop {
        if score.is_off {
            return None;
        }
        let now = score.starts > 0;
        if !now && let Err(error) = score.look() {
            score.give_up(&error);
            return None;
        }
        let asked = wanted.filter(|wanted| score.refused != Some(*wanted));
        let wanted = asked.unwrap_or_else(|| (score.own.max(0) + JOB_SCORE_OFFSET).min(MAX_SCORE));
        if now && score.raised != wanted {
            score = RESTORED.wait(score).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        if !now {
            if let Err(error) = score.write(wanted) {
                if asked.is_some() {
                    score.refuse(wanted, &error);
                    continue;
                }
                score.give_up(&error);
                return None;
            }
            score.raised = wanted;
        }
        score.starts += 1;
        return Some(Raised);
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let mut score = lock();
        score.starts -= 1;
        if score.starts == 0 {
            let own = score.own;
            if let Err(error) = score.write(own) {
                score.give_up(&error);
            }
            RESTORED.notify_all();
        }
    }
}

fn lock() -> MutexGuard<'static, Score> {
    SCORE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Score {
    fn file(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            self.file = Some(File::options().read(true).write(true).open("/proc/self/oom_score_adj")?);
        }
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn look(&mut self) -> io::Result<()> {
        let mut text = [0; 16];
        let length = self.file()?.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..length]).map_err(io::Error::other)?;
        self.own = text.trim().parse().map_err(io::Error::other)?;
        Ok(())
    }

    fn write(&mut self, score: i32) -> io::Result<()> {
        self.file()?.write_all_at(score.to_string().as_bytes(), 0)
    }

    fn refuse(&mut self, wanted: i32, error: &io::Error) {
        self.refused = Some(wanted);
        tracing::warn!(wanted, %error, "the system refuses the configured OOM score adjustment: jobs have the default one");
    }

    fn give_up(&mut self, error: &io::Error) {
        self.is_off = true;
        tracing::info!(%error, "cannot raise the OOM score adjustment of jobs: the kernel may kill this program before them");
    }
}
