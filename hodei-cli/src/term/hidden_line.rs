//! Asking at a terminal for what it must not show.

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
    let hidden = 'asked: loop {
        let hidden = Hidden::new()?;
        tell(&prompt);
        loop {
            tokio::select! {
                biased;
                // Whoever had the terminal meanwhile shows what is typed.
                _ = resumed.recv() => break,
                // A terminal is readable when it has a line, or was closed.
                ready = stdin.readable() => {
                    let mut ready = ready?;
                    if !poll_stdin()?.is_empty() {
                        break 'asked hidden;
                    }
                    // It was of a line that was typed before.
                    ready.clear_ready();
                }
            }
        }
    };
    // Past the buffer of `Stdin`, which would keep a copy.
    let mut line = Zeroizing::new(vec![0; LONGEST_LINE]);
    let length = read(&mut line)?;
    if drain(&hidden).await? || length == LONGEST_LINE {
        return Ok(None);
    }
    line.truncate(length);
    if line.ends_with(b"\n") {
        line.pop();
    }
    Ok(Some(line))
}

/// Takes what was pasted behind a line, so that no shell reads it; whether there was any.
async fn drain(hidden: &Hidden) -> io::Result<bool> {
    hidden.give_all()?;
    let (mut rest, mut any) = (Zeroizing::new(vec![0; LONGEST_LINE]), false);
    loop {
        if !poll_stdin()?.contains(PollFlags::IN) {
            sleep(PASTE).await;
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

    /// From now on what was typed is there to be read, and not by lines alone.
    fn give_all(&self) -> io::Result<()> {
        let mut modes = self.0.clone();
        modes.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        modes.special_codes[SpecialCodeIndex::VMIN] = 1;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        Ok(tcsetattr(io::stdin(), OptionalActions::Now, &modes)?)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Somebody else has it by now, and its own modes.
        let is_anothers = |front: Pid| own_group().is_some_and(|own| own != front.as_raw_pid());
        if tcgetpgrp(io::stdin()).is_ok_and(is_anothers) {
            return;
        }
        // What is typed and not read is of the secret, and nobody else is to show it.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// The process group of this process: 0 where it was made outside of its pid namespace. See proc_pid_stat(5).
fn own_group() -> Option<i32> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}
