//! No circle of imports among the files of a crate. A `mod.rs` may name the files of its own folder, which may name it.

use std::collections::{BTreeMap, BTreeSet};

use crate::sources::{product, report, sources};

const CRATES: [&str; 6] = [
    "hodei-core/src/",
    "hodei-sdk/src/",
    "hodei-agent/src/",
    "hodei-cli/src/",
    "hodei-daemon/src/",
    "proto/src/",
];

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let mut broken = Vec::new();
    for root in CRATES {
        let graph = graph(root, &sources);
        assert!(graph.values().any(|imports| !imports.is_empty()), "{root} has no imports");
        broken.extend(circle(&graph).map(|circle| format!("{root}: {}", circle.join(" -> "))));
    }
    report(&broken);
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// The modules of a crate that are files, and those that each names.
fn graph(root: &str, sources: &[(String, String)]) -> Graph {
    let own: BTreeMap<String, &str> = sources
        .iter()
        .filter_map(|(path, text)| Some((module_of(path.strip_prefix(root)?), product(text))))
        .collect();
    let files: BTreeSet<String> = own.keys().cloned().collect();
    own.into_iter()
        .map(|(module, text)| {
            let named = named(&module, text, &files);
            (module, named)
        })
        .collect()
}

/// `a/b/mod.rs` and `a/b.rs` are `a::b`; the root of the crate is the empty name.
fn module_of(path: &str) -> String {
    let path = path.trim_end_matches(".rs").replace('/', "::");
    let path = path.strip_suffix("::mod").unwrap_or(&path);
    if ["lib", "main", "mod"].contains(&path) { String::new() } else { path.to_owned() }
}

fn named(module: &str, text: &str, files: &BTreeSet<String>) -> BTreeSet<String> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let mut found = BTreeSet::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            for path in paths(&code[at..]) {
                let target = resolve(module, &path, files);
                let is_below =
                    |target: &String| module.is_empty() || target.starts_with(&format!("{module}::"));
                found.extend(
                    target.filter(|target| target != module && !target.is_empty() && !is_below(target)),
                );
            }
        }
    }
    found
}

/// The path at the beginning of a text, once for each item of a list at its end.
fn paths(text: &str) -> Vec<Vec<String>> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !is_path(c)).unwrap_or(text.len());
    let base: Vec<String> =
        text[..end].split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let Some(list) = text[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()) else {
        return vec![base];
    };
    let item = |item: &str| {
        let first = item.trim().split([':', ' ', '{']).next().unwrap_or_default().to_owned();
        base.iter().cloned().chain([first]).collect()
    };
    list.split(',').map(item).collect()
}

/// The file that the longest beginning of a path means.
fn resolve(module: &str, path: &[String], files: &BTreeSet<String>) -> Option<String> {
    let mut parts: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut rest = path.iter().map(String::as_str);
    let first = rest.next()?;
    match first {
        "crate" => parts.clear(),
        "super" => drop(parts.pop()),
        _ => {}
    }
    for part in rest {
        if part == "super" {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    (0..=parts.len()).rev().map(|length| parts[..length].join("::")).find(|name| files.contains(name))
}

/// One circle, if there is any.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    for start in graph.keys() {
        let mut path = Vec::new();
        if let Some(circle) = walk(graph, start, &mut path, &mut done) {
            return Some(circle);
        }
    }
    None
}

fn walk(graph: &Graph, at: &str, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
    if let Some(place) = path.iter().position(|step| step == at) {
        return Some(path[place..].iter().cloned().chain([at.to_owned()]).collect());
    }
    if done.contains(at) {
        return None;
    }
    path.push(at.to_owned());
    let found = graph.get(at)?.iter().find_map(|next| walk(graph, next, path, done));
    path.pop();
    done.insert(at.to_owned());
    found
}

#[test]
fn a_circle_is_found_through_lists_and_parents() {
    let file = |path: &str, text: &str| (format!("x/{path}"), text.to_owned());
    let sources = [
        file("lib.rs", "mod a; mod b;"),
        file("a.rs", "use crate::b::{One, inner::Two};"),
        file("b/mod.rs", "mod inner;"),
        file("b/inner.rs", "fn f() { super::super::a::g() }"),
    ];
    assert_eq!(circle(&graph("x/", &sources)).unwrap(), ["a", "b::inner", "a"]);
}
