//! No circle of imports among the files of a crate. A `mod.rs` may name the files of its own folder, which may name it. A path
//! through a re-export (`pub use`) leads to the file that has the item.

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
    let files = Files::of(&own);
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

fn named(module: &str, text: &str, files: &Files) -> BTreeSet<String> {
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

/// The files of a crate, and the items that each re-exports.
struct Files {
    names: BTreeSet<String>,
    /// By module and item, the path that the module has it from, as `self::…`.
    exports: BTreeMap<(String, String), Vec<String>>,
}

impl Files {
    fn of(own: &BTreeMap<String, &str>) -> Self {
        let mut exports = BTreeMap::new();
        for (module, text) in own {
            let uses = text.split("pub").skip(1).filter_map(|rest| {
                let rest = rest.strip_prefix("(crate)").unwrap_or(rest);
                rest.strip_prefix(" use ")
            });
            for path in uses.flat_map(paths) {
                let Some(item) = path.last().cloned() else { continue };
                let is_rooted = ["crate", "super", "self"].contains(&path[0].as_str());
                let path =
                    if is_rooted { path } else { std::iter::once("self".into()).chain(path).collect() };
                exports.insert((module.clone(), item), path);
            }
        }
        Self { names: own.keys().cloned().collect(), exports }
    }
}

/// The file that the longest beginning of a path means, or that a re-export there leads to.
fn resolve(module: &str, path: &[String], files: &Files) -> Option<String> {
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
    let length = (0..=parts.len()).rev().find(|length| files.names.contains(&parts[..*length].join("::")))?;
    let found = parts[..length].join("::");
    let Some(item) = parts.get(length) else { return Some(found) };
    match files.exports.get(&(found.clone(), (*item).to_owned())) {
        // A re-export of a foreign item leads nowhere else.
        Some(export) if found != module || export.len() > 2 => resolve(&found, export, files),
        _ => Some(found),
    }
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
    let sources = [
        file("lib.rs", "mod a; mod b;"),
        file("a.rs", "use crate::b::Two;"),
        file("b/mod.rs", "mod inner;\npub(crate) use inner::{One, Two};"),
        file("b/inner.rs", "use crate::a::g;"),
    ];
    assert_eq!(circle(&graph("x/", &sources)).unwrap(), ["a", "b::inner", "a"], "through a re-export");
}
