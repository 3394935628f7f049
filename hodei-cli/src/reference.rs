//! docs/cli.md, made from the help.

use std::fmt::Write;

use clap::{Command, CommandFactory};

use crate::Cli;

fn reference() -> String {
    let mut text = String::from(
        "# The command line\n\n\
         Made from the help; `HODEI_BLESS=1 cargo test -p hodei-cli reference` writes it anew.\n",
    );
    // What the environment of this test holds is in no reference.
    let mut root = Cli::command().mut_args(|argument| argument.hide_env_values(true));
    root.build();
    section(&root, "hodei", &mut text);
    text
}

fn section(command: &Command, path: &str, text: &mut String) {
    let mut command = command.clone().term_width(110).mut_args(|argument| argument.hide_env_values(true));
    let help = command.render_long_help().to_string();
    let lines: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let _ = write!(text, "\n## {path}\n\n```text\n{lines}```\n");
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        section(sub, &format!("{path} {}", sub.get_name()), text);
    }
}

#[test]
fn the_reference_of_the_command_line_is_true() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let written = reference();
    if std::env::var_os("HODEI_BLESS").is_some() {
        std::fs::write(path, &written)?;
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == written, "docs/cli.md is not true: HODEI_BLESS=1 writes it anew");
    Ok(())
}
