//! The command line of a process.

use std::ffi::OsString;
use std::path::PathBuf;

/// The path of a program, and its arguments, which start with its name.
#[derive(Debug)]
pub(in crate::executor) struct CommandLine {
    pub(in crate::executor) path: PathBuf,
    pub(in crate::executor) argv: Vec<OsString>,
}
