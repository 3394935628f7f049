//! The file of a script, in its own directory: interpreters look for imports beside the script.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::executor::workspace::Workspace;

/// The file of a script. It is removed with its directory when it is dropped.
#[derive(Debug)]
pub(in crate::executor) struct Script {
    dir: Option<Workspace>,
    path: PathBuf,
}

impl Script {
    /// Writes the script into an empty directory. Its name has the given extension, or else the usual one of its
    /// interpreter.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(in crate::executor) fn write(
        dir: Workspace,
        source: &str,
        extension: Option<&str>,
        interpreter: &[String],
    ) -> io::Result<Self> {
        let extension = extension.or_else(|| usual_extension(interpreter));
        let mut path = dir.dir().join("script");
        path.set_extension(extension.unwrap_or_default());
        let mut file = File::options().write(true).create_new(true).mode(0o700).open(&path)?;
        file.write_all(source.as_bytes())?;
        Ok(Self { dir: Some(dir), path })
    }

    pub(in crate::executor) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file. Returns the directory, with anything that the job left there.
    pub(in crate::executor) fn into_dir(mut self) -> Option<Workspace> {
        self.dir.take()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // An empty directory is removed faster.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Names of interpreters, without a version, and the extension of their scripts.
const EXTENSIONS: [(&[&str], &str); 13] = [
    (&["sh", "bash", "dash", "ksh", "zsh", "ash"], "sh"),
    (&["python", "pypy"], "py"),
    (&["node", "nodejs", "bun"], "js"),
    (&["deno", "tsx", "ts-node"], "ts"),
    (&["ruby"], "rb"),
    (&["perl"], "pl"),
    (&["php"], "php"),
    (&["lua", "luajit"], "lua"),
    (&["Rscript"], "R"),
    (&["pwsh"], "ps1"),
    (&["fish"], "fish"),
    (&["julia"], "jl"),
    (&["tclsh"], "tcl"),
];

/// Returns the extension for an interpreter, or for the program that `env` starts.
fn usual_extension(interpreter: &[String]) -> Option<&'static str> {
    let named = |word: &String| Path::new(word).file_name().and_then(|name| name.to_str().map(str::to_owned));
    let mut words = interpreter.iter();
    let mut name = named(words.next()?)?;
    if name == "env" {
        name = named(words.find(|word| !word.starts_with('-') && !word.contains('='))?)?;
    }
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    EXTENSIONS.iter().find(|(names, _)| names.contains(&name)).map(|(_, extension)| *extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_is_that_of_the_interpreter() {
        let of = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            usual_extension(&words)
        };
        for (line, extension) in [
            ("/bin/sh", Some("sh")),
            ("bash -e", Some("sh")),
            ("/usr/bin/python3.12 -I", Some("py")),
            ("/usr/bin/env python3", Some("py")),
            ("/usr/bin/env -S A=b node --no-warnings", Some("js")),
            ("Rscript", Some("R")),
            ("/opt/own/tool", None),
            ("env", None),
            ("", None),
        ] {
            assert_eq!(of(line), extension, "{line}");
        }
    }
}
