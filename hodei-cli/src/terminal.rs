//! Asking at a terminal for what it must not show.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::Signal;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::run::sleep;
use crate::show::tell;

/// Lines that are pasted come within this.
const PASTE: Duration = Duration::from_millis(100);
/// A terminal keeps this much of a line, its newline with it, and drops what follows (`N_TTY_BUF_SIZE`).
const LONGEST_LINE: usize = 4096;

/// Reads a line, without its newline, from the terminal that standard input is, and shows nothing of it; `None` when it is
/// more than a terminal takes, or more than one. Cancel safe: dropped, it leaves the terminal as it was.
#[expect(
    deprecated,
    reason = "sound for standard input, which is not closed; the replacement is an unsafe fn"
)]
pub(crate) async fn hidden_line(prompt: impl Display) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let stdin = AsyncFd::with_interest(io::stdin(), Interest::READABLE)?;
    let mut resumed = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let _hidden = loop {
        let hidden = Hidden::new()?;
        tell(&prompt);
        tokio::select! {
            biased;
            // Whoever had the terminal meanwhile shows what is typed.
            _ = resumed.recv() => {}
            // A terminal is readable when it has a line, or was closed.
            ready = stdin.readable() => {
                drop(ready?);
                break hidden;
            }
        }
    };
    // Past the buffer of `Stdin`, which would keep a copy.
    let mut line = Zeroizing::new(vec![0; LONGEST_LINE]);
    let length = retry_on_intr(|| rustix::io::read(io::stdin(), &mut line[..]))?;
    // The rest of what was pasted is no command of the shell: it goes with the terminal's modes.
    sleep(PASTE).await;
    let has_more = poll(&mut [PollFd::new(&io::stdin(), PollFlags::IN)], Some(&Timespec::default()))? > 0;
    if length == LONGEST_LINE || has_more {
        return Ok(None);
    }
    line.truncate(length);
    if line.ends_with(b"\n") {
        line.pop();
    }
    Ok(Some(line))
}

/// A terminal that shows of what is typed its newline alone, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        modes.local_modes.insert(LocalModes::ICANON | LocalModes::ECHONL);
        // What was typed before is of somebody who did not know.
        tcsetattr(io::stdin(), OptionalActions::Flush, &modes)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // What is typed and not read is of the secret, and nobody else is to show it.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
