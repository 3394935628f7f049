//! The main process of a job, from its start until it has been reaped.

use std::io;

use rustix::process::{Pid, Signal};

use crate::executor::host::posix::{Program, Used, reap};

/// The main process of a job, which leads its own session and process group. If it is dropped before it was reaped, it
/// is killed with its group and reaped.
#[derive(Debug)]
pub(in crate::executor) struct MainProcess {
    pid: Pid,
    /// Reaped or given up.
    is_over: bool,
}

impl MainProcess {
    /// Starts a program. Blocks while the system loads it.
    ///
    /// # Errors
    /// Those of [`Program::start`].
    pub(in crate::executor) fn start(program: &Program) -> io::Result<Self> {
        Ok(Self { pid: program.start()?, is_over: false })
    }

    /// Returns its number, which is also that of its session and group.
    pub(in crate::executor) fn pid(&self) -> Pid {
        self.pid
    }

    /// Stops waiting for a process that does not die.
    pub(in crate::executor) fn give_up(&mut self) {
        self.is_over = true;
    }

    /// Waits for its end and releases its number.
    ///
    /// # Errors
    /// If another call of this program reaped it.
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
