//! What keeps a run whole and repeatable: owned tasks, biased selects, no order of a hash, one unsafe file.

use crate::sources::{code_lines, is_test, product, report, sources};

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
        let own = product(&text);
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
            broken.push(format!("{path} spawns a task without an owner: use task.rs"));
        }
    }
    report(&broken);
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
