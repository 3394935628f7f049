//! What a process has to do to itself before it becomes the program of a job: into its control groups it must go alone,
//! before it can have children that stay outside, and a limit is that of a whole process.
//!
//! Only jobs that have limits go by it, and those of a program that has others than its jobs; it costs them one more exec.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::executor::start::spawn::CommandLine;

/// The first argument of a helper that is this program.
const EXEC_IN: &str = "exec-as";
/// Stands between the files and the program.
const END: &str = "--";
/// The same for a shell, where the program that has the agent in it is somebody else's.
const SCRIPT: &str = r#"while [ "$1" != -- ]; do case $1 in \
umask=*) umask "${1#*=}";; open-files=*) ulimit -Sn "${1#*=}";; *) echo $$ > "$1";; esac || exit 125; \
shift; done; shift; exec "$@""#;
/// Says a file mode creation mask, in octal digits.
const UMASK: &str = "umask=";
/// Says a soft limit of open files.
const OPEN_FILES: &str = "open-files=";

/// What a process has to do to itself.
#[derive(Debug, Default)]
pub(in crate::executor) struct Steps {
    /// Files that take its number to have it in their groups.
    pub(in crate::executor) groups: Vec<PathBuf>,
    /// The file mode creation mask to set.
    pub(in crate::executor) umask: Option<u32>,
    /// The soft limit of open files to set.
    pub(in crate::executor) open_files: Option<u64>,
}

impl Steps {
    /// Whether there is nothing to do.
    pub(in crate::executor) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.umask.is_none() && self.open_files.is_none()
    }

    fn words(&self) -> impl Iterator<Item = OsString> {
        let umask = self.umask.map(|mask| format!("{UMASK}{mask:03o}").into());
        let open_files = self.open_files.map(|limit| format!("{OPEN_FILES}{limit}").into());
        self.groups.iter().map(OsString::from).chain(umask).chain(open_files)
    }
}

/// Who does it.
#[derive(Debug, Clone, Default)]
pub(in crate::executor) enum Helper {
    /// A program whose `main` begins with [`exec_in`].
    Program(PathBuf),
    /// `/bin/sh`.
    #[default]
    Shell,
}

impl Helper {
    /// The command line that has a program run after these steps, with such an argv. A shell calls it by its path: it knows
    /// no other way.
    pub(in crate::executor) fn wrap(&self, steps: &Steps, program: &Path, argv: &[String]) -> CommandLine {
        let (name, arguments) = argv.split_at(argv.len().min(1));
        let (path, mut line): (_, Vec<OsString>) = match self {
            Self::Program(path) => (path.clone(), vec![path.into(), EXEC_IN.into()]),
            Self::Shell => ("/bin/sh".into(), ["/bin/sh", "-c", SCRIPT, "hodei"].map(OsString::from).into()),
        };
        line.extend(steps.words());
        line.push(END.into());
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
    if let Some(mask) = value(UMASK) {
        let mask = u32::from_str_radix(mask, 8).map_err(io::Error::other)?;
        rustix::process::umask(Mode::from_raw_mode(mask));
        Ok(())
    } else if let Some(limit) = value(OPEN_FILES) {
        let limit = limit.parse().map_err(io::Error::other)?;
        let hard = getrlimit(Resource::Nofile).maximum;
        Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: hard })?)
    } else {
        // 0 is whoever writes it.
        std::fs::write(word, "0")
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
    for word in arguments.by_ref().take_while(|word| word != OsStr::new(END)) {
        if let Err(error) = take_step(&word) {
            return failed(&format_args!("{}: {error}", Path::new(&word).display()));
        }
    }
    let (Some(name), Some(program)) = (arguments.next(), arguments.next()) else {
        return failed(&"no program is named");
    };
    let error = Command::new(&program).arg0(name).args(arguments).exec();
    failed(&format_args!("{}: {error}", Path::new(&program).display()))
}
