//! Statements of the documents that name a test.

use crate::sources::{report, root, sources};

/// Each "Architecture Invariant:" of docs/architecture.md names the test that holds it, and that test exists.
#[test]
fn each_architecture_invariant_names_a_test_that_exists() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let tests: String = sources().into_iter().map(|(_, text)| text).collect();
    let mut count = 0;
    let mut broken = Vec::new();
    for line in page.lines().filter(|line| line.contains("Architecture Invariant:")) {
        count += 1;
        let named =
            line.rsplit_once("(test: `").and_then(|(_, rest)| rest.split_once('`')).map(|(name, _)| name);
        match named {
            Some(name) if tests.contains(&format!("fn {name}(")) => {}
            other => broken.push(format!("{line}: {other:?} is no test")),
        }
    }
    assert!(count >= 6, "{count} invariants are written down");
    report(&broken);
}
