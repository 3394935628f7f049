//! Writing for people: lists, objects, short texts.

use std::io::Write;

use clap::ValueEnum;
use comfy_table::{Table, presets};

use crate::error::CliError;

/// For people or for programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people: columns, or the output of a job as it comes.
    #[default]
    #[value(alias = "text")]
    Table,
    /// For programs: one JSON value.
    Json,
}

/// Says something beside the output; whoever closed standard error does not want to know.
pub(crate) fn tell(what: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "hodei: {what}");
}

/// Prints; a reader that has gone has seen enough.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    print_more(text.as_bytes()).map(drop)
}

/// The same; whether there is somebody who reads more.
pub(crate) fn print_more(bytes: &[u8]) -> Result<bool, CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::Output(error)),
        Ok(()) => Ok(true),
    }
}

/// One JSON object, or a line for each of its fields that says something.
pub(crate) fn object(object: &serde_json::Value, format: Format) -> Result<(), CliError> {
    if format == Format::Json {
        return print(&format!("{object}\n"));
    }
    let mut table = table(&[]);
    rows("", object, &mut table);
    print(&lines(&table))
}

/// A row for each value; those inside of others are named by their path.
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

pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !head.is_empty() {
        table.set_header(head.iter().copied());
    }
    table
}

/// Without the blanks that fill a line to the end.
pub(crate) fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim())).collect()
}

/// A text of the user's as one short line: it must not push the columns apart.
pub(crate) fn shown(text: &str) -> String {
    let mut line = visible(text);
    if let Some((end, _)) = line.char_indices().nth(60) {
        line.truncate(end);
        line.push('\u{2026}');
    }
    line
}

/// A text of the user's as one line: it must not move the cursor.
pub(crate) fn visible(text: &str) -> String {
    // Without width, or turning the direction of what follows.
    let invisible =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    text.chars().map(|c| if c.is_control() || invisible(c) { '\u{fffd}' } else { c }).collect()
}

/// A time to the second: nobody reads microseconds in a list.
pub(crate) fn seconds(at: &str) -> String {
    at.split_once('.').map_or_else(|| at.to_owned(), |(whole, _)| format!("{whole}Z"))
}

#[cfg(test)]
mod tests {
    use super::{shown, visible};

    #[test]
    fn what_moves_the_cursor_is_shown_and_what_people_write_stays() {
        assert_eq!(visible("a\u{1b}[2Jb\u{202e}c\u{200b}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
        let written = "it\u{2019}s \u{201c}here\u{201d} \u{2013} always\u{2026}";
        assert_eq!(visible(written), written);
        assert!(shown(&"x".repeat(80)).ends_with("x\u{2026}"));
    }
}
