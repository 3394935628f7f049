//! Reads a line from a terminal without showing it.

use std::fmt::Display;
use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::term::interrupts::sleep;
use crate::term::show::tell;

/// Longest time between two lines of one paste.
const PASTE_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest line in bytes, with its newline, that a terminal keeps; it drops the rest (`N_TTY_BUF_SIZE`).
const MAX_LINE_BYTES: usize = 4096;

/// Reads a line, without its newline, from the terminal on standard input, and does not show it. Returns `None` if the
/// line is longer than a terminal accepts, or is not the only one. Cancel safe: a drop restores the terminal.
#[expect(
    deprecated,
    reason = "sound for standard input, which is not closed; the replacement is an unsafe fn"
)]
pub(crate) async fn hidden_line(prompt: impl Display) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let stdin = AsyncFd::with_interest(io::stdin(), Interest::READABLE)?;
    let mut resumed = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
    let hidden = 'asked: loop {
        let hidden = Hidden::new()?;
        tell(&prompt);
        loop {
            tokio::select! {
                biased;
                // The program that had the terminal meanwhile may show typed text again.
                _ = resumed.recv() => break,
                // A terminal is readable if it has a line, or was closed.
                ready = stdin.readable() => {
                    let mut ready = ready?;
                    if !poll_stdin()?.is_empty() {
                        break 'asked hidden;
                    }
                    // The readiness was for a line that was typed before, and is flushed.
                    ready.clear_ready();
                }
            }
        }
    };
    // Bypasses the buffer of `Stdin`, which would keep a copy of the secret.
    let mut line = Zeroizing::new(vec![0; MAX_LINE_BYTES]);
    let length = read(&mut line)?;
    if drain(&hidden).await? || length == MAX_LINE_BYTES {
        return Ok(None);
    }
    line.truncate(length);
    if line.ends_with(b"\n") {
        line.pop();
    }
    Ok(Some(line))
}

/// Discards text that was pasted behind the line, so that no shell reads it. Returns whether there was any.
async fn drain(hidden: &Hidden) -> io::Result<bool> {
    hidden.leave_line_mode()?;
    let (mut rest, mut any) = (Zeroizing::new(vec![0; MAX_LINE_BYTES]), false);
    loop {
        if !poll_stdin()?.contains(PollFlags::IN) {
            sleep(PASTE_TIMEOUT).await;
            if !poll_stdin()?.contains(PollFlags::IN) {
                return Ok(any);
            }
        }
        if read(&mut rest)? == 0 {
            return Ok(any);
        }
        any = true;
        tokio::task::yield_now().await;
    }
}

fn read(into: &mut [u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| rustix::io::read(io::stdin(), &mut *into))?)
}

fn poll_stdin() -> io::Result<PollFlags> {
    let stdin = io::stdin();
    let mut one = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut one, Some(&Timespec::default()))?;
    Ok(one[0].revents())
}

/// Hides the text typed at the terminal, except for its newline, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        modes.local_modes.insert(LocalModes::ICANON | LocalModes::ECHONL);
        // Discards text that was typed before the prompt.
        tcsetattr(io::stdin(), OptionalActions::Flush, &modes)?;
        Ok(Self(before))
    }

    /// Makes all typed text readable, not only complete lines.
    fn leave_line_mode(&self) -> io::Result<()> {
        let mut modes = self.0.clone();
        modes.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &modes)?)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Another process group has the terminal by now, with its own modes.
        let is_foreign = |front: Pid| own_group().is_some_and(|own| own != front.as_raw_pid());
        if tcgetpgrp(io::stdin()).is_ok_and(is_foreign) {
            return;
        }
        // Typed text that was not read belongs to the secret: discards it.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Returns the process group of this process; 0 if the group was created outside its pid namespace. See
/// proc_pid_stat(5).
fn own_group() -> Option<i32> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}
