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
            other => broken.push(format!("{line}: {other:?} is not a test")),
        }
    }
    assert!(count >= 6, "{count} invariants are written down");
    report(&broken);
}

/// The components in the last columns of docs/events.md are types of the product.
#[test]
fn producers_and_consumers_of_events_are_components() {
    let page = std::fs::read_to_string(root().join("docs/events.md")).unwrap();
    let product: String =
        sources().into_iter().filter(|(path, _)| path.contains("/src/")).map(|(_, text)| text).collect();
    let (mut rows, mut broken) = (0, Vec::new());
    for line in page.lines().filter(|line| line.starts_with('|')).skip(2) {
        let columns: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [event, _, producers, consumers, _] = columns[..] else { panic!("{line}") };
        rows += 1;
        for name in producers.split(", ").chain(consumers.split(", ")).filter(|name| *name != "history") {
            if !product.contains(&format!("pub(crate) struct {name} ")) {
                broken.push(format!("docs/events.md: `{name}` of {event} is not a component"));
            }
        }
    }
    assert!(rows >= 30, "{rows} events");
    report(&broken);
}

/// Each path in docs/architecture.md that begins with a folder of the repository exists.
#[test]
fn paths_in_the_architecture_exist() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let is_path = |text: &&str| {
        ["hodei-", "proto/", "docs/", "examples/"].iter().any(|start| text.starts_with(start))
            && text.contains('/')
            && !text.contains(['<', '*', ' '])
    };
    let paths: Vec<&str> = page.split('`').skip(1).step_by(2).filter(is_path).collect();
    assert!(paths.len() > 40, "{} paths", paths.len());
    let missing = |path: &&str| !root().join(path).exists();
    let broken: Vec<String> = paths
        .into_iter()
        .filter(missing)
        .map(|path| format!("docs/architecture.md: there is no {path}"))
        .collect();
    report(&broken);
}
