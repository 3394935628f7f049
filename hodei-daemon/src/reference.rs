//! The configuration reference in docs/operations.md, made from the keys.

use clap::{Arg, CommandFactory};

use crate::config::Flags;

const BEGIN: &str =
    "<!-- made from the keys; `HODEI_BLESS=1 cargo test -p hodei-daemon reference` writes it anew -->\n";
const END: &str = "<!-- end of what is made -->";

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
    // The file itself is no key of the file.
    let key = if flag == "config" { "–".to_owned() } else { format!("`{}`", argument.get_id()) };
    let value = argument.get_value_names().into_iter().flatten().map(|name| format!(" {name}"));
    let value: String = value.collect();
    let environment = argument.get_env().and_then(|name| name.to_str()).unwrap_or_default();
    let meaning = argument.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
    let row = format!("| {key} | `--{flag}{value}` | `{environment}` | {meaning} |\n");
    row.replace("stop|leave", "stop\\|leave").replace("store|dir:", "store\\|dir:")
}

#[test]
fn the_reference_of_the_configuration_is_up_to_date() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let kept = std::fs::read_to_string(path)?;
    let (before, rest) = kept.split_once(BEGIN).expect("where it begins");
    let (_, after) = rest.split_once(END).expect("where it ends");
    let written = format!("{before}{BEGIN}{}{END}{after}", reference());
    if std::env::var_os("HODEI_BLESS").is_some() {
        return std::fs::write(path, &written);
    }
    assert!(kept == written, "docs/operations.md is not true: HODEI_BLESS=1 writes it anew");
    Ok(())
}
