//! A second process of `hodei run`, which ends the job when the first one is killed.

use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use hodei_sdk::id::StoreId;
use hodei_sdk::{LocalOptions, SystemClock};

/// The first argument of a guard.
const GUARD: &str = "end-jobs-with-parent";
/// This program, also when another was put in its place.
const OWN: &str = "/proc/self/exe";

/// The guard of this process. It knows that this one is gone by the end of a pipe, which nothing else has the other end of.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    pipe: PipeWriter,
}

impl Guard {
    /// Starts it, in a process group of its own: a Ctrl-C is not for it. Blocks until it is loaded.
    ///
    /// # Errors
    /// When the system gives no process, or no descriptors.
    pub(crate) fn start() -> io::Result<Self> {
        let (stdin, pipe) = io::pipe()?;
        let mut command = Command::new(OWN);
        command.arg(GUARD).process_group(0).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child: command.spawn()?, pipe })
    }

    /// Tells it whose jobs it is to end.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn tell(&mut self, owner: StoreId) -> io::Result<()> {
        writeln!(self.pipe, "{owner}")
    }

    /// Ends it: there are no jobs any more. It is killed, since it may not even be loaded yet.
    pub(crate) fn dismiss(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is the guard, when the arguments of this process say so: waits for the end of its parent, and ends what that left.
pub(crate) fn guard(options: impl FnOnce() -> LocalOptions) -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|first| first != GUARD) {
        return None;
    }
    let mut heard = String::new();
    // What was not understood is the end as well.
    let _ = io::stdin().read_to_string(&mut heard);
    let Some(owner) = heard.lines().next().and_then(|line| line.parse::<StoreId>().ok()) else {
        return Some(ExitCode::SUCCESS);
    };
    let (options, clock) = (options(), SystemClock::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let is_clear = runtime.is_ok_and(|runtime| runtime.block_on(options.end_leftovers(&clock, owner)));
    Some(if is_clear { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
