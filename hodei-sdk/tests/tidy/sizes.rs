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
        let is_head = |word: &&str| {
            word.starts_with("pub") || word.ends_with(')') || ["const", "async", "unsafe"].contains(word)
        };
        let Some(name) = words.get(place + 1).filter(|_| words[..place].iter().all(is_head)) else {
            continue;
        };
        found.push(((*name).to_owned(), 1 + lines_below(&lines[at..], indent)));
    }
    found
}

/// Lines below the head of a function: to its closing brace, which a blank line or another brace follows, or to the semicolon
/// of one without a body.
fn lines_below(lines: &[&str], indent: usize) -> usize {
    if lines[0].ends_with(['}', ';']) {
        return 0;
    }
    let brace = format!("{}}}", " ".repeat(indent));
    let is_end = |at: &usize| {
        let line = lines[*at];
        let next = lines.get(at + 1).map_or("", |next| next.trim());
        let closes = line == brace && (next.is_empty() || next.starts_with('}'));
        let is_head = line.strip_prefix(&brace[..indent]).is_some_and(|rest| rest.starts_with(')'));
        closes || is_head && line.ends_with(';')
    };
    (1..lines.len()).find(is_end).unwrap_or(0)
}

#[test]
fn the_lines_of_functions_are_counted() {
    let text = "pub(in crate::a) async fn one(\n    a: u8,\n) {\n    r\"\n}\n{\n\";\n}\n\nfn two() {}\n\ntrait T {\n    fn three(\n        &self,\n    );\n}\n";
    let counted: Vec<usize> = functions(text).into_iter().map(|(_, lines)| lines).collect();
    assert_eq!(counted, [8, 1, 3]);
}

#[test]
fn the_dispatcher_keeps_a_small_face() {
    let path = root().join("hodei-sdk/src/app/dispatch/dispatcher.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let methods = code_lines(&text).filter(|line| line.starts_with("pub(crate) fn ")).count();
    assert!((1..=5).contains(&methods), "{methods} public methods");
}
