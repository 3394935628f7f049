//! Signals that end this program, as exit codes.

use std::time::Duration;

use hodei_sdk::SignalListener;
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

use crate::exit;

#[allow(clippy::disallowed_methods, reason = "the command line is outside of the platform and its clock")]
pub(crate) async fn sleep(wait: Duration) {
    tokio::time::sleep(wait).await;
}

/// Ctrl-C, TERM, a closed terminal and Ctrl-\\, as exit codes. A signal that this program was started to ignore, as by
/// `nohup` or in the background of a script, stays ignored.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: SignalListener,
    terminate: SignalListener,
    hangup: SignalListener,
    quit: SignalListener,
    /// Handled so that it does nothing: a file that a limit keeps from growing is a write that fails.
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

    /// The exit code of the next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> u8 {
        tokio::select! {
            () = self.interrupt.recv() => exit::INTERRUPTED,
            () = self.terminate.recv() => exit::TERMINATED,
            () = self.hangup.recv() => exit::HUNG_UP,
            () = self.quit.recv() => exit::QUIT,
        }
    }
}
