//! Generates the configuration table in docs/operations.md from the keys, and checks that it is up to date.

use clap::{Arg, CommandFactory};

use crate::config::Flags;

const BEGIN: &str = "<!-- generated from the keys: `HODEI_BLESS=1 cargo test -p hodei-daemon reference` rewrites this table -->\n";
const END: &str = "<!-- end of the generated table -->";

fn reference() -> String {
    let command = Flags::command();
    let keys = command.get_arguments().filter(|argument| argument.get_env().is_some());
    let mut text = String::from("\n| key | flag | environment | meaning |\n| --- | --- | --- | --- |\n");
    keys.for_each(|key| text.push_str(&row(key)));
    text.push('\n');
    text
}

fn row(argument: &Arg) -> String {
    let flag = argument.get_long().unwrap_or_default();
    // The path of the file is not a key in the file.
    let key = if flag == "config" { "–".to_owned() } else { format!("`{}`", argument.get_id()) };
    let value = argument.get_value_names().into_iter().flatten().map(|name| format!(" {name}"));
    let value: String = value.collect();
    let environment = argument.get_env().and_then(|name| name.to_str()).unwrap_or_default();
    let meaning = argument.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
    // An unescaped `|` would start another cell, even in code.
    let (value, meaning) = (value.replace('|', "\\|"), meaning.replace('|', "\\|"));
    format!("| {key} | `--{flag}{value}` | `{environment}` | {meaning} |\n")
}

#[test]
fn the_reference_of_the_configuration_is_up_to_date() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let kept = std::fs::read_to_string(path)?;
    let (before, rest) = kept.split_once(BEGIN).expect("docs/operations.md has no begin marker");
    let (_, after) = rest.split_once(END).expect("docs/operations.md has no end marker");
    let written = format!("{before}{BEGIN}{}{END}{after}", reference());
    if std::env::var_os("HODEI_BLESS").is_some() {
        return std::fs::write(path, &written);
    }
    assert!(
        kept == written,
        "docs/operations.md is out of date: run this test with HODEI_BLESS=1 to rewrite it"
    );
    Ok(())
}
