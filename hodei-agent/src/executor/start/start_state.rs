//! The initial state of job processes that the spec does not set.

use rustix::fs::Mode;
use rustix::process::{setpriority_process, umask};
use rustix::thread::UnshareFlags;

/// The initial state of a job's process that the spec does not set. It does not depend on the state of this program,
/// unless a field says so. The table in docs/job-life.md lists all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartState {
    /// The file mode creation mask, `0o000` to `0o777`; `0o022` by default.
    pub umask: u32,
    /// The niceness, -20 to 19; by default that of the program. A lower one requires a privilege.
    pub niceness: Option<i32>,
    /// The OOM score adjustment (`oom_score_adj`), -1000 to 1000: the higher, the sooner the kernel kills a process for
    /// lack of memory. By default 100 more than the program, and at least 100.
    pub oom_score_adj: Option<i32>,
    /// The soft limit of open files; by default that of the program. A program that raised its own limit sets the
    /// original one here. This costs each job one more exec: a limit applies to a whole process, so only the job's
    /// process can lower its own.
    pub open_files: Option<u64>,
}

impl Default for StartState {
    fn default() -> Self {
        Self { umask: 0o022, niceness: None, oom_score_adj: None, open_files: None }
    }
}

impl StartState {
    /// Parses a file mode creation mask from octal digits.
    ///
    /// # Errors
    /// A message for the user if the text is not such a mask.
    pub fn parse_umask(text: &str) -> Result<u32, String> {
        let mask = u32::from_str_radix(text, 8).ok().filter(|mask| *mask <= 0o777);
        mask.ok_or_else(|| format!("`{text}` is not a valid mask: use octal digits, 000 to 777"))
    }

    /// Returns whether the threads of this process differ from its jobs in mask or niceness.
    pub(in crate::executor) fn needs_a_thread(&self) -> bool {
        self.niceness.is_some() || umask_of_this_process() != Some(self.umask)
    }

    /// Sets the part that a process inherits from the thread that starts it, as far as the system permits.
    pub(in crate::executor) fn apply_to_this_thread(&self) {
        if has_own_umask() {
            umask(Mode::from_raw_mode(self.umask));
        }
        if let Some(niceness) = self.niceness
            && let Err(error) = setpriority_process(None, niceness)
        {
            tracing::warn!(niceness, %error, "cannot set the niceness of jobs: they have that of this program");
        }
    }

    /// Returns the mask if a process has to set it itself: in some containers a thread cannot have its own.
    pub(in crate::executor) fn umask_by_process(&self) -> Option<u32> {
        let is_set = umask_of_this_process() == Some(self.umask)
            || std::thread::scope(|scope| scope.spawn(has_own_umask).join().unwrap_or(false));
        (!is_set).then_some(self.umask)
    }
}

/// Gives the calling thread its own mask and working directory, independent of other threads. Returns whether it has
/// them.
#[expect(deprecated, reason = "sound without FILES, which alone makes the call unsafe")]
fn has_own_umask() -> bool {
    rustix::thread::unshare(UnshareFlags::FS).is_ok()
}

/// Returns the mask of this process: see proc_pid_status(5).
fn umask_of_this_process() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok()
}
