//! The main process of a job, from its start until it has been reaped.

use std::io;

use rustix::process::{Pid, Signal};

use crate::executor::host::posix::{Program, Used, reap};

/// The main process of a job, which leads a session and a process group of its own. Dropped before it has been reaped, it
/// is killed with its group, and reaped.
#[derive(Debug)]
pub(in crate::executor) struct MainProcess {
    pid: Pid,
    /// Reaped, or waited for no longer.
    is_over: bool,
}

impl MainProcess {
    /// Starts a program. Blocks for as long as the system takes to load it.
    ///
    /// # Errors
    /// Those of [`Program::start`].
    pub(in crate::executor) fn start(program: &Program) -> io::Result<Self> {
        Ok(Self { pid: program.start()?, is_over: false })
    }

    /// Its number, which is that of its session and its group too.
    pub(in crate::executor) fn pid(&self) -> Pid {
        self.pid
    }

    /// It does not die: it is waited for no longer.
    pub(in crate::executor) fn give_up(&mut self) {
        self.is_over = true;
    }

    /// Waits for its end, and takes its number out of use.
    ///
    /// # Errors
    /// When another call of this program waited for it.
    pub(in crate::executor) fn reap(&mut self) -> io::Result<Used> {
        let used = reap(self.pid);
        self.is_over = true;
        used
    }
}

impl Drop for MainProcess {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            let _ = self.reap();
        }
    }
}
