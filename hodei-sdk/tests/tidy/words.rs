//! Names that say nothing, shortcuts that do not belong in the product, and files that do not say what they hold.

use std::path::Path;

use crate::sources::{code_lines, is_test, product, report, sources};

#[test]
fn names_and_shortcuts_that_do_not_belong_here() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap().to_owned();
        if ["util", "utils", "common", "helpers", "misc"].contains(&name.as_str()) {
            broken.push(format!("{path}: a name that says nothing"));
        }
        let own = product(&text);
        let forbidden = ["todo!", "unimplemented!", ".unwrap()", "#[ignore", "dbg!("];
        for word in forbidden.iter().filter(|_| !is_test(&path) && !path.ends_with("build.rs")) {
            if code_lines(own).any(|line| line.contains(word)) {
                broken.push(format!("{path} has {word}"));
            }
        }
        // It panics where it cannot be written.
        let is_shipped = !is_test(&path)
            && !path.ends_with("build.rs")
            && !path.starts_with("examples/")
            && !path.starts_with("benches/");
        if is_shipped && code_lines(own).any(|line| line.contains("print!(") || line.contains("println!(")) {
            broken.push(format!("{path} prints with a macro that may panic: use write! or writeln!"));
        }
    }
    report(&broken);
}

#[test]
fn every_file_says_what_it_holds() {
    let silent = |(_, text): &(String, String)| !text.starts_with("//!");
    let broken: Vec<String> = sources()
        .into_iter()
        .filter(silent)
        .map(|(path, _)| format!("{path} begins without a `//!` line"))
        .collect();
    report(&broken);
}
