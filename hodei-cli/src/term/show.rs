//! Prints lists, objects and messages for people or for programs.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{Table, presets};

use crate::error::CliError;

/// Format of the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people: columns, or the output of a job as it comes.
    #[default]
    #[value(alias = "text")]
    Table,
    /// For programs: one JSON value.
    Json,
}

/// Prints a message on standard error; ignores a closed one.
pub(crate) fn tell(message: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "hodei: {message}");
}

/// Prints on standard output; ignores a closed one.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    print_more(text.as_bytes()).map(drop)
}

/// Prints on standard output; returns false if its reader has closed it.
pub(crate) fn print_more(bytes: &[u8]) -> Result<bool, CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Output(error)),
        Ok(()) => Ok(true),
    }
}

/// Prints a JSON object as it is, or as a line for each field with a value.
pub(crate) fn object(object: &serde_json::Value, format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        return print(&format!("{object}\n"));
    }
    let mut table = table(&[]);
    rows("", object, &mut table);
    print(&lines(&table))
}

/// Adds a row for each value; a nested value is named by its path.
fn rows(path: &str, value: &serde_json::Value, table: &mut Table) {
    let text = match value {
        serde_json::Value::Null => return,
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                rows(&below, value, table);
            }
            return;
        }
        serde_json::Value::String(text) => visible(text),
        serde_json::Value::Number(number) if number.is_f64() => {
            number.as_f64().map_or_else(String::new, |number| format!("{number:.2}"))
        }
        other => other.to_string(),
    };
    table.add_row([shown(path), text]);
}

/// Returns an empty table with these column heads.
pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !head.is_empty() {
        table.set_header(head.iter().copied());
    }
    table
}

/// Formats a table without trailing blanks.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim())).collect()
}

/// Shortens a user's text to one line of 60 characters, which keeps columns narrow.
pub(crate) fn shown(text: &str) -> String {
    let mut line = visible(text);
    if let Some((end, _)) = line.char_indices().nth(60) {
        line.truncate(end);
        line.push('\u{2026}');
    }
    line
}

/// Turns a user's text into one line that cannot move the cursor.
pub(crate) fn visible(text: &str) -> String {
    // Characters without width, and those that change the direction of text.
    let invisible =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    text.chars().map(|c| if c.is_control() || invisible(c) { '\u{fffd}' } else { c }).collect()
}

/// Cuts a time to the second, which is enough in a list.
pub(crate) fn seconds(at: &str) -> String {
    at.split_once('.').map_or_else(|| at.to_owned(), |(whole, _)| format!("{whole}Z"))
}

#[cfg(test)]
mod tests {
    use super::{shown, visible};

    #[test]
    fn characters_that_move_the_cursor_are_replaced_and_ordinary_text_stays() {
        assert_eq!(visible("a\u{1b}[2Jb\u{202e}c\u{200b}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
        let written = "it\u{2019}s \u{201c}here\u{201d} \u{2013} always\u{2026}";
        assert_eq!(visible(written), written);
        assert!(shown(&"x".repeat(80)).ends_with("x\u{2026}"));
    }
}
