//! Listens to signals, except to those that the program was started to ignore.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives one signal in place of its default action. A signal that this process was started to ignore, as `nohup`
/// does with SIGHUP, stays ignored and is never received: a handler would override the wish of the user.
#[derive(Debug)]
pub struct SignalListener(Option<Signal>);

impl SignalListener {
    /// Listens to the signal with this number (see signal(7)) from now on, for the rest of this process. Must be called
    /// within a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// If the system does not let a program handle the signal.
    pub fn new(number: i32) -> io::Result<Self> {
        if is_ignored(number) { Ok(Self(None)) } else { Self::always(number) }
    }

    /// Listens to the signal also if this process was started to ignore it: a shell starts a command with `&` so that it
    /// ignores INT and QUIT. For a program that another program asks to end by that signal.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn always(number: i32) -> io::Result<Self> {
        signal(SignalKind::from_raw(number)).map(|on| Self(Some(on)))
    }

    /// Waits for the next signal. Cancel safe.
    pub async fn recv(&mut self) {
        let received = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if received.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Returns whether this process ignores a signal now.
fn is_ignored(number: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_in_mask(&status, number)
}

fn is_in_mask(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_a_bit_for_each_signal() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\tffffffffffffffff\n";
        let ignored: Vec<i32> = (-1..70).filter(|signal| is_in_mask(status, *signal)).collect();
        assert_eq!(ignored, [1, 13]);
        assert!(!is_in_mask("", 1));
    }

    #[test]
    fn a_rust_program_ignores_sigpipe_and_not_sigterm() {
        assert!(is_ignored(13) && !is_ignored(15));
    }

    #[tokio::test]
    async fn an_ignored_signal_is_never_received_and_a_handled_one_is() {
        let numbers = [SignalKind::pipe(), SignalKind::user_defined2()].map(|kind| kind.as_raw_value());
        let [mut ignored, mut handled] = numbers.map(|number| SignalListener::new(number).unwrap());
        let this = rustix::process::getpid();
        for signal in [rustix::process::Signal::PIPE, rustix::process::Signal::USR2] {
            rustix::process::kill_process(this, signal).unwrap();
        }
        tokio::select! {
            biased;
            () = ignored.recv() => panic!("received an ignored signal"),
            () = handled.recv() => {}
        }
    }
}
