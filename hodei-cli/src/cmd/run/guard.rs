//! The guard: a second process of `hodei run` that ends the job when the first process is killed.

use std::io::{self, PipeWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use hodei_sdk::id::StoreId;
use hodei_sdk::{LocalOptions, SystemClock};

/// First argument of a guard process.
const GUARD_ARGUMENT: &str = "end-jobs-with-parent";
/// This executable, even if its file was replaced since the start.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// The guard of this process. It detects the end of this process by the end of a pipe, whose only writer is here.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    pipe: PipeWriter,
}

impl Guard {
    /// Starts the guard in its own process group, so that a Ctrl-C does not reach it. Blocks until it is loaded.
    ///
    /// # Errors
    /// If the system provides no process or no descriptors.
    pub(crate) fn start() -> io::Result<Self> {
        let (stdin, pipe) = io::pipe()?;
        let mut command = Command::new(OWN_EXECUTABLE);
        command.arg(GUARD_ARGUMENT).process_group(0).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child: command.spawn()?, pipe })
    }

    /// Tells the guard which owner's jobs it must end.
    ///
    /// # Errors
    /// If the guard has ended.
    pub(crate) fn tell(&mut self, owner: StoreId) -> io::Result<()> {
        writeln!(self.pipe, "{owner}")
    }

    /// Ends the guard when there are no jobs any more. It kills the guard, which may not be loaded yet.
    pub(crate) fn dismiss(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the guard if the arguments of this process say so: waits for the end of its parent, then ends the parent's
/// jobs. Returns `None` in any other process.
pub(crate) fn guard(options: impl FnOnce() -> LocalOptions) -> Option<ExitCode> {
    if std::env::args_os().nth(1).is_none_or(|first| first != GUARD_ARGUMENT) {
        return None;
    }
    let mut message = String::new();
    // A read error means the end of the parent as well.
    let _ = io::stdin().read_to_string(&mut message);
    let Some(owner) = message.lines().next().and_then(|line| line.parse::<StoreId>().ok()) else {
        return Some(ExitCode::SUCCESS);
    };
    let (options, clock) = (options(), SystemClock::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let is_clear = runtime.is_ok_and(|runtime| runtime.block_on(options.end_leftovers(&clock, owner)));
    Some(if is_clear { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
