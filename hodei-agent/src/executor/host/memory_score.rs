//! Jobs are ended for want of memory before the program that runs them.
//!
//! A process has the score of the one that starts it (`oom_score_adj` in proc(5)), and none can lower its own below what it
//! was given. So this program raises its own while it starts a process, and lowers it again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// By how much the score of a job is above that of the program, in thousandths of the memory of the machine.
const ABOVE: i32 = 100;
/// The largest there is.
const HIGHEST: i32 = 1000;

/// The score of this process, of which there is one.
static SCORE: Mutex<Score> =
    Mutex::new(Score { file: None, is_off: false, refused: None, own: 0, raised: 0, starts: 0 });
/// Notified when it is lowered.
static LOWERED: Condvar = Condvar::new();

struct Score {
    file: Option<File>,
    /// It cannot be changed here.
    is_off: bool,
    /// One that was wanted and cannot be had: jobs have the usual one instead.
    refused: Option<i32>,
    own: i32,
    raised: i32,
    /// Processes that are being started.
    starts: usize,
}

/// Has the score of this process be that of a job until dropped.
#[derive(Debug)]
#[must_use]
pub(in crate::executor) struct Raised;

/// Gives this process the score of a job, this or else one above its own, until the result is dropped; `None` when the
/// system does not let it. Waits for starts that want another score.
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
        let wanted = asked.unwrap_or_else(|| (score.own.max(0) + ABOVE).min(HIGHEST));
        if now && score.raised != wanted {
            score = LOWERED.wait(score).unwrap_or_else(PoisonError::into_inner);
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
            LOWERED.notify_all();
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
        tracing::warn!(wanted, %error, "jobs have the usual memory score: this program may not give them the one that is set");
    }

    fn give_up(&mut self, error: &io::Error) {
        self.is_off = true;
        tracing::info!(%error, "jobs are as likely to be ended for want of memory as this program");
    }
}
