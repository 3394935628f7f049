//! Generates docs/cli.md from the help texts, and checks that it is up to date.

use std::fmt::Write;

use clap::{Command, CommandFactory};

use crate::Cli;

fn reference() -> String {
    let mut text = String::from(
        "# The command line\n\n\
         Generated from the help texts: `HODEI_BLESS=1 cargo test -p hodei-cli reference` rewrites it.\n",
    );
    // The values in the environment of this test do not belong in a reference.
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
fn the_reference_of_the_command_line_is_up_to_date() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let written = reference();
    if std::env::var_os("HODEI_BLESS").is_some() {
        std::fs::write(path, &written)?;
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == written, "docs/cli.md is out of date: run this test with HODEI_BLESS=1 to rewrite it");
    Ok(())
}
