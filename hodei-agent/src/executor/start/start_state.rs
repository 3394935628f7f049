//! What the processes of jobs begin with that a job does not say itself.

use rustix::fs::Mode;
use rustix::process::{setpriority_process, umask};
use rustix::thread::UnshareFlags;

/// What the process of a job begins with that the job does not say itself, whatever the program has that starts it: the
/// table of docs/job-life.md has all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartState {
    /// The file mode creation mask, `0o000` to `0o777`; `0o022` by default.
    pub umask: u32,
    /// The niceness, -20 to 19; by default that of the program. Less than that needs the right to it.
    pub niceness: Option<i32>,
    /// How much sooner the kernel ends a process of a job for want of memory (`oom_score_adj`), -1000 to 1000; by default
    /// 100 more than the program, and at least 100.
    pub oom_score_adj: Option<i32>,
    /// The soft limit of open files; by default that of the program. One that raised its own limit gives the former here,
    /// which costs each job one exec more: a limit is that of a whole process, so only a job can lower its own.
    pub open_files: Option<u64>,
}

impl Default for StartState {
    fn default() -> Self {
        Self { umask: 0o022, niceness: None, oom_score_adj: None, open_files: None }
    }
}

impl StartState {
    /// A file mode creation mask by its octal digits.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_umask(text: &str) -> Result<u32, String> {
        let mask = u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777);
        mask.ok_or_else(|| format!("`{text}` is not a mask of octal digits, 000 to 777"))
    }

    /// Whether a thread of this process has another mask or niceness than its jobs are to have.
    pub(in crate::executor) fn needs_a_thread(&self) -> bool {
        self.niceness.is_some() || umask_of_this_process() != Some(self.umask)
    }

    /// Sets the part of it that a process has of the thread that starts it. What the system does not let this program
    /// set stays as it is.
    pub(in crate::executor) fn apply_to_this_thread(&self) {
        if has_own_umask() {
            umask(Mode::from_raw_mode(self.umask));
        }
        if let Some(niceness) = self.niceness
            && let Err(error) = setpriority_process(None, niceness)
        {
            tracing::warn!(niceness, %error, "jobs have the niceness of this program");
        }
    }

    /// The mask, where a process has to set it itself: some containers let no thread have its own.
    pub(in crate::executor) fn umask_by_process(&self) -> Option<u32> {
        let is_set = umask_of_this_process() == Some(self.umask)
            || std::thread::scope(|scope| scope.spawn(has_own_umask).join().unwrap_or(false));
        (!is_set).then_some(self.umask)
    }
}

/// Gives the calling thread a mask and a working directory of its own, and says whether it has them: those of the other
/// threads stay as they are.
#[expect(deprecated, reason = "sound without FILES, which alone makes the call unsafe")]
fn has_own_umask() -> bool {
    rustix::thread::unshare(UnshareFlags::FS).is_ok()
}

/// See proc_pid_status(5).
fn umask_of_this_process() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok()
}
