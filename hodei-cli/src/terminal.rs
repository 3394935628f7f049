//! Asking at a terminal for what it must not show.

use std::fmt::Display;
use std::io;

use rustix::io::retry_on_intr;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use zeroize::Zeroizing;

use crate::run::Interrupts;
use crate::show::tell;

/// A terminal keeps this much of a line, its newline with it, and drops what follows (`N_TTY_BUF_SIZE`).
const LONGEST_LINE: usize = 4096;

/// What came of a question.
pub(crate) enum Typed {
    /// A line, without its newline.
    Line(Zeroizing<Vec<u8>>),
    /// More than a terminal takes in one line.
    TooLong,
    /// Interrupted: the exit code.
    Interrupted(u8),
}

/// Reads a line from the terminal that standard input is, and shows nothing of it.
#[expect(
    deprecated,
    reason = "sound for standard input, which is not closed; the replacement is an unsafe fn"
)]
pub(crate) async fn hidden_line(prompt: impl Display) -> io::Result<Typed> {
    let mut interrupts = Interrupts::new()?;
    let hidden = Hidden::new()?;
    tell(prompt);
    let stdin = AsyncFd::with_interest(io::stdin(), Interest::READABLE)?;
    tokio::select! {
        biased;
        code = interrupts.next() => return Ok(Typed::Interrupted(code)),
        // A terminal is readable when it has a line, or was closed.
        ready = stdin.readable() => drop(ready?),
    }
    // Past the buffer of `Stdin`, which would keep a copy.
    let mut line = Zeroizing::new(vec![0; LONGEST_LINE]);
    let length = retry_on_intr(|| rustix::io::read(io::stdin(), &mut line[..]))?;
    drop(hidden);
    if length == LONGEST_LINE {
        return Ok(Typed::TooLong);
    }
    line.truncate(length);
    if line.ends_with(b"\n") {
        line.pop();
    }
    Ok(Typed::Line(line))
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
