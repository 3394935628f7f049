//! The signals that a daemon handles.

use std::io;

use hodei_sdk::SignalListener;
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

/// Request of a signal to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// TERM, INT and QUIT.
    Stop,
    /// HUP.
    Reload,
}

/// Listens for signals. TERM, INT and QUIT request a stop, HUP a reload. USR1 and USR2 do nothing, though they would
/// end a process by default. XFSZ does nothing, so that a write beyond a limit of the file size fails instead. Signals
/// that were ignored at the start, such as HUP under `nohup`, stay ignored.
pub(crate) struct Signals {
    stop: [SignalListener; 3],
    reload: SignalListener,
    /// Handlers that do nothing.
    _without_effect: [SignalListener; 3],
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        let on = |kind: SignalKind| SignalListener::new(kind.as_raw_value());
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let (user1, user2) = (SignalKind::user_defined1(), SignalKind::user_defined2());
        Ok(Self {
            stop: [on(terminate)?, on(interrupt)?, on(SignalKind::quit())?],
            reload: on(SignalKind::hangup())?,
            _without_effect: [on(user1)?, on(user2)?, SignalListener::new(Signal::XFSZ.as_raw())?],
        })
    }

    /// Waits for the next request. Cancel safe.
    pub(crate) async fn next(&mut self) -> Request {
        let [terminate, interrupt, quit] = &mut self.stop;
        tokio::select! {
            biased;
            () = terminate.recv() => Request::Stop,
            () = interrupt.recv() => Request::Stop,
            () = quit.recv() => Request::Stop,
            () = self.reload.recv() => Request::Reload,
        }
    }

    /// Waits for the next request to stop. Cancel safe.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }
}
