//! The source files of the workspace.

use std::path::{Path, PathBuf};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every source file of the workspace, with its path from the root.
pub(crate) fn sources() -> Vec<(String, String)> {
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

pub(crate) fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

pub(crate) fn is_test(path: &str) -> bool {
    path.contains("/tests/")
}

pub(crate) fn report(broken: &[String]) {
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The part of a source file above its own unit tests, which may do and name what they like.
pub(crate) fn product(text: &str) -> &str {
    text.rsplit_once("\n#[cfg(test)]\nmod tests {").map_or(text, |(product, _)| product)
}
