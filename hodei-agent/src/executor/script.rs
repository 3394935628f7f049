//! The file of a script, in a directory of its own: interpreters look for what a script imports beside it.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::executor::workspace::Workspace;

/// The file of a script. Dropped, it is gone, with the directory.
#[derive(Debug)]
pub(in crate::executor) struct Script {
    dir: Option<Workspace>,
    path: PathBuf,
}

impl Script {
    /// Writes it into an empty directory; its name ends with the extension, or with the usual one of its interpreter.
    ///
    /// # Errors
    /// When it cannot be written.
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

    /// Removes the file, and returns its directory with what its job left there.
    pub(in crate::executor) fn into_dir(mut self) -> Option<Workspace> {
        self.dir.take()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // An empty directory goes faster.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Interpreters, without the digits and dots of a version, and what the names of their scripts end with.
const USUAL: [(&[&str], &str); 13] = [
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

/// Of the program itself, or of that which `env` is to start.
fn usual_extension(interpreter: &[String]) -> Option<&'static str> {
    let named = |word: &String| Path::new(word).file_name().and_then(|name| name.to_str().map(str::to_owned));
    let mut words = interpreter.iter();
    let mut name = named(words.next()?)?;
    if name == "env" {
        name = named(words.find(|word| !word.starts_with('-') && !word.contains('='))?)?;
    }
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    USUAL.iter().find(|(names, _)| names.contains(&name)).map(|(_, extension)| *extension)
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
