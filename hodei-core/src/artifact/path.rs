//! Paths inside a workspace.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A path inside a workspace: relative, names separated by `/`, none of them `..`, and at most 1,024 bytes long.
/// Parsing drops single dots and redundant slashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkspacePath(String);

impl WorkspacePath {
    /// Maximum length of a path, in bytes.
    pub const LONGEST: usize = 1024;
    /// Maximum length of a name in a path, in bytes: the limit of file systems.
    pub const LONGEST_NAME: usize = 255;

    /// Returns the path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the names of the path, from the workspace on; at least one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Returns the last name of the path.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether the path is below `above`.
    pub fn is_beneath(&self, above: &Self) -> bool {
        self.0.strip_prefix(&above.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether a symbolic link at this path to `target` stays inside the workspace. Only the first names of the target
    /// may be `..`: after a name that is itself a link, `..` would lead elsewhere.
    pub fn may_lead_to(&self, target: &str) -> bool {
        let up = target.split('/').take_while(|name| matches!(*name, ".." | "." | ""));
        let ups = up.filter(|name| *name == "..").count();
        let all_ups = target.split('/').filter(|name| *name == "..").count();
        let is_path = !target.is_empty() && !target.starts_with('/') && !target.contains('\0');
        is_path && target.len() <= Self::LONGEST && ups == all_ups && ups < self.names().count()
    }

    /// Returns the path of an entry of this directory, by its name.
    ///
    /// # Errors
    /// [`ParseWorkspacePathError`] when no entry of a directory can have that name, or the path is too long.
    pub fn join(&self, name: &str) -> Result<Self, ParseWorkspacePathError> {
        let joined = format!("{self}/{name}");
        match joined.parse::<Self>() {
            // A path that parsing changed came from a name that is empty or a dot.
            Ok(path) if path.0 == joined && !name.contains('/') => Ok(path),
            Ok(_) => Err(ParseWorkspacePathError::of(&joined)),
            Err(error) => Err(error),
        }
    }
}

impl FromStr for WorkspacePath {
    type Err = ParseWorkspacePathError;

    fn from_str(text: &str) -> Result<Self, ParseWorkspacePathError> {
        let names: Vec<&str> = text.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        let path = names.join("/");
        let is_inside = !text.starts_with('/') && !names.contains(&"..");
        let is_short =
            path.len() <= Self::LONGEST && names.iter().all(|name| name.len() <= Self::LONGEST_NAME);
        if is_inside && is_short && !path.is_empty() && !path.contains('\0') {
            Ok(Self(path))
        } else {
            Err(ParseWorkspacePathError::of(text))
        }
    }
}

impl TryFrom<String> for WorkspacePath {
    type Error = ParseWorkspacePathError;

    fn try_from(text: String) -> Result<Self, ParseWorkspacePathError> {
        text.parse()
    }
}

impl From<WorkspacePath> for String {
    fn from(path: WorkspacePath) -> Self {
        path.0
    }
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a path inside a workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a path inside the workspace of a job: write a relative path without `..`, of at most 1024 bytes, with \
     names of at most 255 bytes"
)]
pub struct ParseWorkspacePathError(String);

impl ParseWorkspacePathError {
    fn of(text: &str) -> Self {
        Self(text.chars().filter(|c| !c.is_control()).take(64).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_inside() {
        for (text, path) in
            [("a", "a"), ("./a//b/", "a/b"), ("a/./b", "a/b"), ("..a/b..", "..a/b.."), ("ä b", "ä b")]
        {
            assert_eq!(text.parse::<WorkspacePath>().unwrap().as_str(), path);
        }
        let long = "x".repeat(256);
        let deep = "x/".repeat(513);
        for text in ["", ".", "/", "/a", "..", "a/..", "a/../../b", "../a", "a\0b", &long, &deep] {
            assert!(text.parse::<WorkspacePath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_link_stays_inside() {
        let may = |path: &str, target: &str| path.parse::<WorkspacePath>().unwrap().may_lead_to(target);
        for (path, target) in [
            ("a", "b"),
            ("a", "./b/c"),
            ("a", "."),
            ("out/a", "../b"),
            ("out/a/b", "../../c"),
            ("out/a", ".."),
        ] {
            assert!(may(path, target), "{path} -> {target}");
        }
        let long = "x".repeat(1025);
        for (path, target) in [
            ("a", ".."),
            ("a", "../b"),
            ("out/a", "../../b"),
            ("out/a/b", "c/../../../../d"),
            ("out/a", "b/.."),
            ("a", "/etc/passwd"),
            ("a", ""),
            ("a", &long),
        ] {
            assert!(!may(path, target), "{path} -> {target}");
        }
    }

    #[test]
    fn a_path_has_names_and_joins_one_more() {
        let path: WorkspacePath = "out/sub/a.txt".parse().unwrap();
        assert_eq!(path.names().collect::<Vec<_>>(), ["out", "sub", "a.txt"]);
        assert_eq!((path.file_name(), path.join("b").unwrap().as_str()), ("a.txt", "out/sub/a.txt/b"));
        for name in ["", ".", "..", "b/c"] {
            assert!(path.join(name).is_err(), "no entry of a directory has the name {name:?}");
        }
    }
}
