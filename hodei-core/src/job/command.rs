use serde::{Deserialize, Serialize};

/// What a job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A program and its arguments, without a shell. The program is looked up on the job's PATH.
    Argv(Vec<String>),
    /// One line for `/bin/sh -c`.
    Shell(String),
    /// A text for an interpreter, which gets it as a file.
    Script {
        /// The program and its first arguments, parted by blanks; `None` means the script's `#!` line, or
        /// `/bin/sh` when it has none.
        interpreter: Option<String>,
        /// The text.
        source: String,
    },
}

impl Command {
    /// A short text for lists and messages: at most 60 characters, on one line.
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

    /// The texts in it, for size and NUL checks.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let (argv, rest): (&[String], [Option<&str>; 2]) = match self {
            Command::Argv(argv) => (argv, [None, None]),
            Command::Shell(line) => (&[], [Some(line), None]),
            Command::Script { interpreter, source } => (&[], [interpreter.as_deref(), Some(source)]),
        };
        argv.iter().map(String::as_str).chain(rest.into_iter().flatten())
    }
}
