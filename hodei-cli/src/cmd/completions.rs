//! `hodei completions`: prints the completion script of a shell.

use clap::{Args, CommandFactory};

use crate::Cli;
use crate::error::CliError;
use crate::term::show::print;

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Print the completions for this shell.
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &CompletionArgs) -> Result<u8, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hodei", &mut text);
    print(&String::from_utf8_lossy(&text)).map(|()| 0)
}
