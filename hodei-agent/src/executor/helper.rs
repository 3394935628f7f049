//! What a process has to do to itself before it becomes the program of a job: into its control groups it must go alone,
//! before it can have children that stay outside.
//!
//! Only jobs that have limits go by it; it costs them one more exec.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The first argument of a helper that is this program.
const EXEC_IN: &str = "exec-as";
/// Stands between the files and the program.
const END: &str = "--";
/// The same for a shell, where the program that has the agent in it is somebody else's.
const SCRIPT: &str = r#"while [ "$1" != -- ]; do echo $$ > "$1" || exit 125; shift; done; shift; exec "$@""#;

/// Who does it.
#[derive(Debug, Clone, Default)]
pub(super) enum Helper {
    /// A program whose `main` begins with [`exec_in`].
    Program(PathBuf),
    /// `/bin/sh`.
    #[default]
    Shell,
}

impl Helper {
    /// The command line that has a program run in the groups of these files, with such an argv. A shell calls it by its
    /// path: it knows no other way.
    pub(super) fn wrap(&self, files: &[PathBuf], program: &Path, argv: &[String]) -> Vec<OsString> {
        let (name, arguments) = argv.split_at(argv.len().min(1));
        let mut line: Vec<OsString> = match self {
            Self::Program(path) => vec![path.into(), EXEC_IN.into()],
            Self::Shell => ["/bin/sh", "-c", SCRIPT, "hodei"].map(OsString::from).into(),
        };
        line.extend(files.iter().map(OsString::from));
        line.push(END.into());
        if let Self::Program(_) = self {
            line.extend(name.iter().map(OsString::from));
        }
        line.push(program.into());
        line.extend(arguments.iter().map(OsString::from));
        line
    }
}

/// Is the helper, when the arguments of this process say so: puts it into the groups and becomes the program. Returns
/// only when it was not asked, or could not.
pub fn exec_in() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(EXEC_IN)) {
        return None;
    }
    let failed = |what: &dyn std::fmt::Display| {
        let _ = writeln!(std::io::stderr(), "hodei: {what}");
        Some(ExitCode::from(125))
    };
    for file in arguments.by_ref().take_while(|file| file != OsStr::new(END)) {
        // 0 is whoever writes it.
        if let Err(error) = std::fs::write(&file, "0") {
            return failed(&format_args!("{}: {error}", Path::new(&file).display()));
        }
    }
    let (Some(name), Some(program)) = (arguments.next(), arguments.next()) else {
        return failed(&"no program is named");
    };
    let error = Command::new(&program).arg0(name).args(arguments).exec();
    failed(&format_args!("{}: {error}", Path::new(&program).display()))
}
