//! The helper: takes the steps that a process has to take itself before it becomes the program of a job. It must enter
//! its control groups alone, before it has children that would stay outside, and some limits apply to a whole process.
//!
//! Only jobs with limits use it, and those whose start state needs it. It costs them one more exec.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::executor::start::command_line::CommandLine;

/// The first argument if this program is the helper.
const EXEC_IN_ARGUMENT: &str = "exec-as";
/// Separates the steps from the program.
const SEPARATOR: &str = "--";
/// The helper as a shell script, for agents embedded in a program that does not call [`exec_in`].
const SHELL_SCRIPT: &str = r#"while [ "$1" != -- ]; do case $1 in \
umask=*) umask "${1#*=}";; open-files=*) ulimit -Sn "${1#*=}";; *) echo $$ > "$1";; esac || exit 125; \
shift; done; shift; exec "$@""#;
/// Prefix of a file mode creation mask, in octal digits.
const UMASK_PREFIX: &str = "umask=";
/// Prefix of a soft limit of open files.
const OPEN_FILES_PREFIX: &str = "open-files=";

/// The steps that a process has to take itself.
#[derive(Debug, Default)]
pub(in crate::executor) struct Steps {
    /// Files that move it into their groups when its number is written to them.
    pub(in crate::executor) groups: Vec<PathBuf>,
    /// The file mode creation mask to set.
    pub(in crate::executor) umask: Option<u32>,
    /// The soft limit of open files to set.
    pub(in crate::executor) open_files: Option<u64>,
}

impl Steps {
    /// Returns whether there are no steps.
    pub(in crate::executor) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.umask.is_none() && self.open_files.is_none()
    }

    fn words(&self) -> impl Iterator<Item = OsString> {
        let umask = self.umask.map(|mask| format!("{UMASK_PREFIX}{mask:03o}").into());
        let open_files = self.open_files.map(|limit| format!("{OPEN_FILES_PREFIX}{limit}").into());
        self.groups.iter().map(OsString::from).chain(umask).chain(open_files)
    }
}

/// The program that takes the steps.
#[derive(Debug, Clone, Default)]
pub(in crate::executor) enum Helper {
    /// A program whose `main` begins with [`exec_in`].
    Program(PathBuf),
    /// `/bin/sh`.
    #[default]
    Shell,
}

impl Helper {
    /// Returns the command line that runs a program with this argv after the steps. With a shell, the program's name is
    /// its path, since a shell cannot set another.
    pub(in crate::executor) fn wrap(&self, steps: &Steps, program: &Path, argv: &[String]) -> CommandLine {
        let (name, arguments) = argv.split_at(argv.len().min(1));
        let (path, mut line): (_, Vec<OsString>) = match self {
            Self::Program(path) => (path.clone(), vec![path.into(), EXEC_IN_ARGUMENT.into()]),
            Self::Shell => {
                ("/bin/sh".into(), ["/bin/sh", "-c", SHELL_SCRIPT, "hodei"].map(OsString::from).into())
            }
        };
        line.extend(steps.words());
        line.push(SEPARATOR.into());
        if let Self::Program(_) = self {
            line.extend(name.iter().map(OsString::from));
        }
        line.push(program.into());
        line.extend(arguments.iter().map(OsString::from));
        CommandLine { path, argv: line }
    }
}

fn take_step(word: &OsStr) -> io::Result<()> {
    let value = |name: &str| word.to_str()?.strip_prefix(name);
    if let Some(mask) = value(UMASK_PREFIX) {
        let mask = u32::from_str_radix(mask, 8).map_err(io::Error::other)?;
        rustix::process::umask(Mode::from_raw_mode(mask));
        Ok(())
    } else if let Some(limit) = value(OPEN_FILES_PREFIX) {
        let limit = limit.parse().map_err(io::Error::other)?;
        let hard = getrlimit(Resource::Nofile).maximum;
        Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: hard })?)
    } else {
        // 0 means the process that writes it.
        std::fs::write(word, "0")
    }
}

/// Acts as the helper if the arguments of this process say so: takes the steps and becomes the program. Returns `None`
/// if this process is not a helper, and an exit code if a step failed.
pub fn exec_in() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(EXEC_IN_ARGUMENT)) {
        return None;
    }
    let failed = |what: &dyn std::fmt::Display| {
        let _ = writeln!(std::io::stderr(), "hodei: {what}");
        Some(ExitCode::from(125))
    };
    for word in arguments.by_ref().take_while(|word| word != OsStr::new(SEPARATOR)) {
        if let Err(error) = take_step(&word) {
            return failed(&format_args!("{}: {error}", Path::new(&word).display()));
        }
    }
    let (Some(name), Some(program)) = (arguments.next(), arguments.next()) else {
        return failed(&"no program is given");
    };
    let error = Command::new(&program).arg0(name).args(arguments).exec();
    failed(&format_args!("{}: {error}", Path::new(&program).display()))
}
