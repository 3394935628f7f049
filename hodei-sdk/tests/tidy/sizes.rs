//! How long files and functions may be.

use crate::sources::{code_lines, is_test, report, root, sources};

/// Lines of a function: it fits a screen.
const MAX_FUNCTION_LINES: usize = 70;

#[test]
fn files_stay_below_their_ceilings() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let (lines, ceiling) = (text.lines().count(), if is_test(&path) { 900 } else { 600 });
        if lines > ceiling {
            broken.push(format!("{path} has {lines} lines; the ceiling is {ceiling}: split it by idea"));
        }
    }
    report(&broken);
}

#[test]
fn functions_fit_a_screen() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for (name, lines) in functions(&text) {
            if lines > MAX_FUNCTION_LINES {
                broken.push(format!("{path}: {name} has {lines} lines; the ceiling is {MAX_FUNCTION_LINES}"));
            }
        }
    }
    report(&broken);
}

/// The functions of a formatted source file, with their lines from `fn` to the closing brace.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(place) = words.iter().position(|word| *word == "fn") else { continue };
        let is_head = words[..place].iter().all(|word| {
            word.starts_with("pub")
                || ["const", "async", "unsafe", "crate::executor)", "crate::storage)", "super::super)"]
                    .contains(word)
        });
        let Some(name) = words.get(place + 1).filter(|_| is_head) else { continue };
        let end = format!("{}}}", " ".repeat(indent));
        // One without a body ends with a semicolon at its own depth.
        let close = lines[at..].iter().position(|line| {
            **line == *end || (line.len() - line.trim_start().len() == indent && line.ends_with(';'))
        });
        found.push(((*name).to_owned(), close.map_or(1, |close| close + 1)));
    }
    found
}

#[test]
fn the_lines_of_functions_are_counted() {
    let text = "pub(crate) async fn one(\n    a: u8,\n) {\n    a;\n}\n\nfn two() {}\n\ntrait T {\n    fn three(\n        &self,\n    );\n}\n";
    let counted: Vec<usize> = functions(text).into_iter().map(|(_, lines)| lines).collect();
    assert_eq!((counted[0], counted[2]), (5, 3));
}

#[test]
fn the_dispatcher_keeps_a_small_face() {
    let path = root().join("hodei-sdk/src/app/dispatch/dispatcher.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let methods = code_lines(&text).filter(|line| line.starts_with("pub(crate) fn ")).count();
    assert!((1..=5).contains(&methods), "{methods} public methods");
}
