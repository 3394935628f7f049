//! The command of a job.

use serde::{Deserialize, Serialize};

use super::limits;

/// The command that a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A program and its arguments, without a shell. The program is looked up on the job's PATH.
    Argv(Vec<String>),
    /// One line for `/bin/sh -c`.
    Shell(String),
    /// A script, which its interpreter gets as a file.
    Script {
        /// The program and its first arguments, separated by blanks; `None` means the script's `#!` line, or `/bin/sh`
        /// when it has none.
        interpreter: Option<String>,
        /// The text of the script.
        source: String,
        /// The extension of its file, without the dot; `None` means the usual one of its interpreter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        extension: Option<String>,
    },
}

/// Maximum bytes of a command in a list of jobs.
pub const LISTED_COMMAND_BYTES: usize = 1024;

/// Returns the beginning of a text that fits into `room` bytes, and reduces `room` by its length.
fn cut(text: &str, room: &mut usize) -> String {
    if text.len() <= *room {
        *room -= text.len();
        return text.to_owned();
    }
    let end = text.floor_char_boundary(*room);
    *room = 0;
    format!("{}…", &text[..end])
}

impl Command {
    /// Whether a script may have this extension: 1 to 16 ASCII letters and digits.
    pub fn is_extension(text: &str) -> bool {
        (1..=limits::EXTENSION_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }

    /// Returns a short text for lists and messages: at most 60 characters, on one line.
    pub fn summary(&self) -> String {
        let full = match self {
            Command::Argv(argv) => argv.join(" "),
            Command::Shell(line) => line.clone(),
            Command::Script { source, .. } => source.lines().next().unwrap_or_default().to_owned(),
        };
        let mut text: String = full.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
        if full.chars().count() > 60 {
            text.pop();
            text.push('…');
        }
        text
    }

    /// Returns the command as a list shows it: up to [`LISTED_COMMAND_BYTES`] of its words or its line, or the
    /// [`summary`](Self::summary) of a script.
    pub(super) fn listing(&self) -> Self {
        match self {
            Command::Argv(argv) => {
                let mut room = LISTED_COMMAND_BYTES;
                let fits = argv.iter().map_while(|word| (room > 0).then(|| cut(word, &mut room)));
                Command::Argv(fits.collect())
            }
            Command::Shell(line) => Command::Shell(cut(line, &mut { LISTED_COMMAND_BYTES })),
            Command::Script { interpreter, .. } => {
                Command::Script { interpreter: interpreter.clone(), source: self.summary(), extension: None }
            }
        }
    }

    /// Returns the texts in the command, for size and NUL checks.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let (argv, rest): (&[String], [Option<&str>; 2]) = match self {
            Command::Argv(argv) => (argv, [None, None]),
            Command::Shell(line) => (&[], [Some(line), None]),
            Command::Script { interpreter, source, .. } => (&[], [interpreter.as_deref(), Some(source)]),
        };
        argv.iter().map(String::as_str).chain(rest.into_iter().flatten())
    }
}
