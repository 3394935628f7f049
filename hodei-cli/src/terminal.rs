//! Asking at a terminal for what it must not show.

use std::fmt::Display;
use std::io;

use rustix::io::retry_on_intr;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zeroize::Zeroizing;

use crate::show::tell;

/// A terminal keeps this much of a line, its newline with it, and drops what follows (`N_TTY_BUF_SIZE`).
const LONGEST_LINE: usize = 4096;

/// Reads a line, without its newline, from the terminal that standard input is, and shows nothing of it; `None` when it is
/// more than a terminal takes. Cancel safe: dropped, it leaves the terminal as it was.
#[expect(
    deprecated,
    reason = "sound for standard input, which is not closed; the replacement is an unsafe fn"
)]
pub(crate) async fn hidden_line(prompt: impl Display) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let hidden = Hidden::new()?;
    tell(prompt);
    let stdin = AsyncFd::with_interest(io::stdin(), Interest::READABLE)?;
    // A terminal is readable when it has a line, or was closed.
    drop(stdin.readable().await?);
    // Past the buffer of `Stdin`, which would keep a copy.
    let mut line = Zeroizing::new(vec![0; LONGEST_LINE]);
    let length = retry_on_intr(|| rustix::io::read(io::stdin(), &mut line[..]))?;
    drop(hidden);
    if length == LONGEST_LINE {
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
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
