//! Signals that a program handles, but for those that it was started to ignore.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears one signal, in the place of its default action. A signal that this process was started to ignore, as `nohup` has
/// it for SIGHUP, stays ignored and is never heard: a handler would take away what its user asked for.
#[derive(Debug)]
pub struct SignalListener(Option<Signal>);

impl SignalListener {
    /// Listens to the signal of this number (see signal(7)) from now on, for as long as this process runs. Within a runtime
    /// of tokio that does I/O.
    ///
    /// # Errors
    /// When the system does not let a program handle that signal.
    pub fn new(number: i32) -> io::Result<Self> {
        if is_ignored(number) {
            Ok(Self(None))
        } else {
            signal(SignalKind::from_raw(number)).map(|on| Self(Some(on)))
        }
    }

    /// Waits for the next one. Cancel safe.
    pub async fn recv(&mut self) {
        let heard = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Whether this process ignores a signal now.
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
    async fn an_ignored_signal_is_never_heard_and_another_is() {
        let numbers = [SignalKind::pipe(), SignalKind::user_defined2()].map(|kind| kind.as_raw_value());
        let [mut ignored, mut handled] = numbers.map(|number| SignalListener::new(number).unwrap());
        let this = rustix::process::getpid();
        for signal in [rustix::process::Signal::PIPE, rustix::process::Signal::USR2] {
            rustix::process::kill_process(this, signal).unwrap();
        }
        tokio::select! {
            biased;
            () = ignored.recv() => panic!("heard a signal that is ignored"),
            () = handled.recv() => {}
        }
    }
}
