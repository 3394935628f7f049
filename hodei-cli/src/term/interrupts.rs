//! Signals that interrupt this program, as exit codes.

use std::time::Duration;

use hodei_sdk::SignalListener;
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

use crate::exit;

#[allow(clippy::disallowed_methods, reason = "the command line is outside of the platform and its clock")]
pub(crate) async fn sleep(wait: Duration) {
    tokio::time::sleep(wait).await;
}

/// Listens for Ctrl-C, TERM, a closed terminal and Ctrl-\\. A signal that was ignored at the start of this program, for
/// example by `nohup` or in the background of a script, stays ignored.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: SignalListener,
    terminate: SignalListener,
    hangup: SignalListener,
    quit: SignalListener,
    /// A handler that does nothing: at a limit of the file size, a write fails instead of killing this program.
    _file_size: SignalListener,
}

impl Interrupts {
    pub(crate) fn new() -> std::io::Result<Self> {
        let on = |kind: SignalKind| SignalListener::new(kind.as_raw_value());
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            quit: on(SignalKind::quit())?,
            _file_size: SignalListener::new(Signal::XFSZ.as_raw())?,
        })
    }

    /// Waits for the next signal and returns its exit code. Cancel safe.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            () = self.interrupt.recv() => exit::INTERRUPTED,
            () = self.terminate.recv() => exit::TERMINATED,
            () = self.hangup.recv() => exit::HUNG_UP,
            () = self.quit.recv() => exit::QUIT,
        }
    }
}
