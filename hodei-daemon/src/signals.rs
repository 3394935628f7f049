//! The signals of a daemon.

use std::io;

use hodei_sdk::SignalListener;
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

/// What a signal asks of a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// TERM, INT and QUIT.
    Stop,
    /// HUP.
    Reload,
}

/// TERM, INT and QUIT ask a daemon to stop, HUP to read its configuration again. USR1 and USR2 would end it by default:
/// they do nothing, nor does XFSZ: a file that a limit keeps from growing is a write that fails. Those that it was started
/// to ignore, as HUP under `nohup`, stay ignored.
pub(crate) struct Signals {
    stop: [SignalListener; 3],
    reload: SignalListener,
    /// Handled so that they do nothing.
    _passed_over: [SignalListener; 3],
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let on = |kind: SignalKind| SignalListener::new(kind.as_raw_value());
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let (user1, user2) = (SignalKind::user_defined1(), SignalKind::user_defined2());
        Ok(Self {
            stop: [on(terminate)?, on(interrupt)?, on(SignalKind::quit())?],
            reload: on(SignalKind::hangup())?,
            _passed_over: [on(user1)?, on(user2)?, SignalListener::new(Signal::XFSZ.as_raw())?],
        })
    }

    /// The next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Asked {
        let [terminate, interrupt, quit] = &mut self.stop;
        tokio::select! {
            biased;
            () = terminate.recv() => Asked::Stop,
            () = interrupt.recv() => Asked::Stop,
            () = quit.recv() => Asked::Stop,
            () = self.reload.recv() => Asked::Reload,
        }
    }

    /// The next that asks to stop. Cancel safe.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Asked::Stop {}
    }
}
