//! Laws of the repository: who may name whom, how long a file may be, what it must not contain.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of the workspace, with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if name.ends_with(".rs") {
                let short = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((short, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(found.len() > 60, "the tree was not found");
    found
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/")
}

fn report(broken: &[String]) {
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn imports_point_inward() {
    // A folder, and what nothing in it may name.
    let laws: &[(&str, &[&str])] = &[
        (
            "hodei-core/src/",
            &[
                "tokio::",
                "sqlx::",
                "tonic::",
                "std::fs",
                "std::net",
                "std::thread",
                "std::env",
                "SystemTime",
                "Instant",
            ],
        ),
        ("hodei-core/src/job/", &["crate::scheduling", "crate::port", "crate::provider"]),
        ("hodei-core/src/port/", &["crate::scheduling", "crate::invariant"]),
        ("hodei-agent/src/", &["hodei_sdk", "std::sync::mpsc"]),
        ("hodei-agent/src/session/ledger.rs", &["crate::connection", "Clock"]),
        (
            "hodei-sdk/src/app/",
            &[
                "crate::storage",
                "crate::bus",
                "crate::provider",
                "crate::layer",
                "crate::testing",
                "crate::platform",
                "sqlx::",
                "tonic::",
            ],
        ),
        (
            "hodei-sdk/src/storage/",
            &["crate::app", "crate::bus", "crate::provider", "crate::layer", "crate::platform"],
        ),
        (
            "hodei-sdk/src/bus/",
            &["crate::app", "crate::storage", "crate::provider", "crate::layer", "crate::platform"],
        ),
        (
            "hodei-sdk/src/provider/",
            &["crate::app", "crate::storage", "crate::bus", "crate::layer", "crate::platform"],
        ),
        (
            "hodei-sdk/src/layer/",
            &["crate::app", "crate::storage", "crate::bus", "crate::provider", "crate::platform"],
        ),
    ];
    let mut broken = Vec::new();
    for (path, text) in sources() {
        for (folder, names) in laws.iter().filter(|(folder, _)| path.starts_with(folder)) {
            // The library's own tests below the first `cfg(test)` may name what they like.
            let own = text.split("#[cfg(test)]").next().unwrap_or_default();
            for name in names.iter().filter(|name| code_lines(own).any(|line| line.contains(**name))) {
                broken.push(format!("{path} names {name}, which nothing in {folder} may"));
            }
        }
    }
    report(&broken);
}

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
fn names_and_shortcuts_that_do_not_belong_here() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap().to_owned();
        if ["util", "utils", "common", "helpers", "misc"].contains(&name.as_str()) {
            broken.push(format!("{path}: a name that says nothing"));
        }
        let own = text.split("#[cfg(test)]").next().unwrap_or_default();
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
fn tasks_are_spawned_in_one_place() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let owner = path == "hodei-sdk/src/task.rs" || path.starts_with("hodei-agent/src/session/")
            // One task, owned by the connection that it fills.
            || path == "hodei-agent/src/grpc.rs"
            // One that the end of an attempt waits for.
            || path == "hodei-agent/src/executor/blocking.rs"
            // Threads that end with their executor.
            || path == "hodei-agent/src/executor/start/starter.rs";
        let own = text.split("#[cfg(test)]").next().unwrap_or_default();
        let spawns = [
            "tokio::spawn",
            "task::spawn",
            "JoinSet::new",
            "TaskTracker::new",
            "thread::spawn",
            "thread::Builder",
        ];
        let inside = path.starts_with("hodei-sdk/src/") || path.starts_with("hodei-agent/src/");
        if inside && !owner && code_lines(own).any(|line| spawns.iter().any(|spawn| line.contains(spawn))) {
            broken.push(format!("{path} spawns a task that nobody owns: use task.rs"));
        }
    }
    report(&broken);
}

#[test]
fn the_dispatcher_keeps_a_small_face() {
    let path = root().join("hodei-sdk/src/app/dispatch/dispatcher.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let methods = code_lines(&text).filter(|line| line.starts_with("pub(crate) fn ")).count();
    assert!((1..=5).contains(&methods), "{methods} public methods");
}

#[test]
fn nothing_depends_on_the_order_of_a_hash() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let product = !is_test(&path)
            && (path.starts_with("hodei-core")
                || path.starts_with("hodei-sdk")
                || path.starts_with("hodei-agent"));
        if product && code_lines(&text).any(|line| line.contains("HashMap") || line.contains("HashSet")) {
            broken.push(format!("{path} uses a hash map: a replayed seed would differ"));
        }
    }
    report(&broken);
}

#[test]
fn one_file_alone_is_unsafe() {
    // The lint denies it where it is not said so.
    let lint = concat!("unsafe", "_code");
    let is_said = |(_, text): &(String, String)| code_lines(text).any(|line| line.contains(lint));
    let found: Vec<String> = sources().into_iter().filter(is_said).map(|(path, _)| path).collect();
    assert_eq!(found, ["hodei-agent/src/executor/host/posix.rs"]);
}

#[test]
fn every_select_is_biased() {
    let mut broken = Vec::new();
    for (path, text) in sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("hodei-sdk/src") || path.starts_with("hodei-agent/src"))
    {
        for (at, _) in text.match_indices("select! {") {
            let inside: String = text[at..].chars().skip("select! {".len()).take(40).collect();
            if !inside.trim_start().starts_with("biased;") {
                broken.push(format!("{path}: a select without `biased;`: a replayed seed would differ"));
            }
        }
    }
    report(&broken);
}

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
