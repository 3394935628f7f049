//! Starts the main process of a job with all that it needs.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use hodei_core::artifact::WorkspacePath;
use hodei_core::job::{Command, FailureCause, JobSpec};
use rustix::fs::{Access, access};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use crate::executor::Job;
use crate::executor::host::account::Account;
use crate::executor::host::cgroup::{Cgroup, Cgroups, KeptGroupPool, LimitedGroup};
use crate::executor::host::children::{Children, Known};
use crate::executor::host::main_process::MainProcess;
use crate::executor::host::marks::Marks;
use crate::executor::host::pidfd::watch_pid;
use crate::executor::host::posix::Program;
use crate::executor::script::Script;
use crate::executor::secrets::{Given, Injected, SecretInjector};
use crate::executor::shortage::NotStarted;
use crate::executor::start::command_line::CommandLine;
use crate::executor::start::environment::environment;
use crate::executor::start::helper::{Helper, Steps};
use crate::executor::start::resolve::resolve;
use crate::executor::start::start_state::StartState;
use crate::executor::start::starter::{Started, Starters};
use crate::executor::workspace::WorkspacePool;

/// A started process with its ends of the pipes.
#[derive(Debug)]
pub(in crate::executor) struct Spawned {
    pub(in crate::executor) main: MainProcess,
    pub(in crate::executor) exit: AsyncFd<OwnedFd>,
    pub(in crate::executor) stdin: Option<pipe::Sender>,
    pub(in crate::executor) stdout: pipe::Receiver,
    pub(in crate::executor) stderr: pipe::Receiver,
    /// `None` once the child was reaped.
    pub(in crate::executor) known: Option<Known>,
    pub(in crate::executor) belongings: Belongings,
}

/// The files, secrets and groups of a process, which are removed with it.
#[derive(Debug)]
pub(in crate::executor) struct Belongings {
    pub(in crate::executor) script: Option<Script>,
    /// Its prepared secrets.
    pub(in crate::executor) secrets: Injected,
    /// The control group of all of its processes, if there is one.
    pub(in crate::executor) cgroup: Option<Cgroup>,
}

/// The settings and resources of this machine for starts.
#[derive(Debug)]
pub(in crate::executor) struct Host {
    pub(in crate::executor) marks: Arc<Marks>,
    pub(in crate::executor) children: Children,
    pub(in crate::executor) cgroups: Cgroups,
    /// The groups for jobs without limits.
    pub(in crate::executor) kept: KeptGroupPool,
    pub(in crate::executor) helper: Helper,
    pub(in crate::executor) starters: Starters,
    /// The initial state of jobs.
    pub(in crate::executor) state: StartState,
    /// The mask, if a process has to set it itself.
    pub(in crate::executor) umask_by_process: OnceLock<Option<u32>>,
    pub(in crate::executor) account: OnceLock<Option<Account>>,
    pub(in crate::executor) workspaces: WorkspacePool,
    pub(in crate::executor) null_input: NullInput,
}

/// Starts the main process of a job, in its own session, in its workspace if it has one. Not cancel safe, but a dropped
/// call leaves no process running.
///
/// Uses `posix_spawn`: a fork of a large process is fifty times as slow.
pub(in crate::executor) async fn spawn(
    job: &Job,
    given: &Given,
    host: &Host,
    workspace: Option<&Path>,
    temp: &Path,
) -> Result<Spawned, NotStarted> {
    let Host { marks, cgroups, .. } = host;
    let secrets = SecretInjector::new(marks).inject(job, given)?;
    let account = host.account.get_or_init(Account::of_this_process).as_ref();
    let variables = environment(job, marks, account, workspace, temp, secrets.dir());
    let dir = working_dir(&job.spec, workspace)?;
    let (argv, script) = command_line(&job.spec, host)?;
    let path = variables.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let program = resolve(&argv[0], &path, &dir)?;
    let limited = LimitedGroup::make(cgroups, marks, job.attempt, job.spec.resources());
    let limited = limited.map_err(|error| {
        let cause = || FailureCause::Infrastructure(format!("its limits cannot be set: {error}"));
        NotStarted::of(&error, "its limits cannot be set", cause)
    })?;
    let line = host.line(limited.as_ref(), &program, &argv);
    let kept = if limited.is_none() { host.kept.take() } else { None };
    let has_input = secrets.stdin().is_some() || !job.spec.stdin().is_empty();
    let program_of = |stdio| {
        // The current directory may not be accessible by its path, but the thread is already in it.
        let is_own = workspace.is_none() && job.spec.working_dir().is_none();
        let dir = (!is_own || access(&dir, Access::EXEC_OK).is_ok()).then_some(&*dir);
        Program::new(&line.path, &line.argv, &variables, dir, stdio)
    };
    let opened =
        Pipes::open(has_input, &host.null_input).and_then(|(pipes, stdio)| Ok((pipes, program_of(stdio)?)));
    let (pipes, start) = opened.map_err(|error| spawn_failure(&program, &error))?;
    let started = host.starters.start(&host.children, job.attempt, start, kept).await;
    let Started { main, known, group } = started.map_err(|error| spawn_failure(&program, &error))?;
    let cgroup = limited.map(Cgroup::Limited).or(group.map(Cgroup::Kept));
    watch(main, known, pipes, Belongings { script, secrets, cgroup }).map_err(|error| {
        let cause = || FailureCause::Infrastructure(format!("the process cannot be watched: {error}"));
        NotStarted::of(&error, "the process cannot be watched", cause)
    })
}

impl Host {
    /// Returns the command line of a program with this argv, through the helper if steps are necessary.
    fn line(&self, limited: Option<&LimitedGroup>, program: &Path, argv: &[String]) -> CommandLine {
        let steps = Steps {
            groups: limited.map(LimitedGroup::procs).unwrap_or_default(),
            umask: *self.umask_by_process.get_or_init(|| self.state.umask_by_process()),
            open_files: self.state.open_files,
        };
        if steps.is_empty() {
            return CommandLine { path: program.to_owned(), argv: argv.iter().map(OsString::from).collect() };
        }
        self.helper.wrap(&steps, program, argv)
    }
}

/// The agent's nonblocking ends of a job's pipes; `stdin` only if the job has input.
#[derive(Debug)]
struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pipes {
    /// Opens the pipes. Also returns the ends that become standard input, output and error. A job without input gets
    /// `null_input`.
    fn open(has_input: bool, null_input: &NullInput) -> io::Result<(Self, [Arc<OwnedFd>; 3])> {
        let (stdin, input) = if has_input {
            let (input, stdin) = io::pipe()?;
            (Some(stdin.into()), Arc::new(input.into()))
        } else {
            (None, null_input.input()?)
        };
        let ((stdout, output), (stderr, errors)) = (io::pipe()?, io::pipe()?);
        let ours = Self { stdin, stdout: stdout.into(), stderr: stderr.into() };
        for end in ours.stdin.iter().chain([&ours.stdout, &ours.stderr]) {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok((ours, [input, Arc::new(output.into()), Arc::new(errors.into())]))
    }
}

/// The input of jobs without any: `/dev/null`, opened once.
#[derive(Debug, Default)]
pub(in crate::executor) struct NullInput(OnceLock<Arc<OwnedFd>>);

impl NullInput {
    fn input(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(opened) = self.0.get() {
            return Ok(opened.clone());
        }
        let opened = Arc::new(std::fs::File::open("/dev/null")?.into());
        Ok(self.0.get_or_init(|| opened).clone())
    }
}

/// Registers a process and its pipes with the runtime. Kills the process on failure.
fn watch(main: MainProcess, known: Known, pipes: Pipes, belongings: Belongings) -> io::Result<Spawned> {
    // The order matters: on failure the process is reaped before it is forgotten.
    let (known, main) = (Some(known), main);
    let exit = watch_pid(main.pid())?;
    // Unchecked: they are nonblocking pipes.
    let stdin = pipes.stdin.map(pipe::Sender::from_owned_fd_unchecked).transpose()?;
    let stdout = pipe::Receiver::from_owned_fd_unchecked(pipes.stdout)?;
    let stderr = pipe::Receiver::from_owned_fd_unchecked(pipes.stderr)?;
    Ok(Spawned { main, exit, stdin, stdout, stderr, known, belongings })
}

fn working_dir(spec: &JobSpec, workspace: Option<&Path>) -> Result<PathBuf, NotStarted> {
    let here = || std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned());
    let workspace = workspace.map_or_else(here, Path::to_owned);
    let Some(dir) = spec.working_dir() else { return Ok(workspace) };
    let dir = if dir.starts_with('/') {
        PathBuf::from(dir)
    } else {
        // A job of an older version may have a path that is not valid here.
        let inside =
            dir.parse::<WorkspacePath>().map_err(|error| FailureCause::FileNotFound(error.to_string()))?;
        workspace.join(inside.as_str())
    };
    let usable = std::fs::create_dir_all(&dir).and_then(|()| Ok(access(&dir, Access::EXEC_OK)?));
    match usable {
        Ok(()) => Ok(dir),
        Err(error) => {
            let why =
                format!("the working directory {} cannot be created or entered: {error}", dir.display());
            Err(NotStarted::of(&error, "the working directory cannot be created or entered", || match error
                .kind()
            {
                io::ErrorKind::PermissionDenied => FailureCause::PermissionDenied(why),
                _ => FailureCause::FileNotFound(why),
            }))
        }
    }
}

fn command_line(spec: &JobSpec, host: &Host) -> Result<(Vec<String>, Option<Script>), NotStarted> {
    match spec.what() {
        Command::Argv(argv) => Ok((argv.clone(), None)),
        Command::Shell(line) => Ok((vec!["/bin/sh".into(), "-c".into(), line.clone()], None)),
        Command::Script { interpreter, source, extension } => {
            let mut argv = interpreter_of(interpreter.as_deref(), source);
            let dir = host.workspaces.make_temp(&host.marks)?;
            let script = Script::write(dir, source, extension.as_deref(), &argv).map_err(|error| {
                let cause = || FailureCause::Io(format!("the script cannot be written: {error}"));
                NotStarted::of(&error, "the script cannot be written", cause)
            })?;
            argv.push(script.path().display().to_string());
            Ok((argv, Some(script)))
        }
    }
}

/// Returns the given interpreter, or the one in the script's first line, or the shell. The script file itself is never
/// executed: a file that was just written may be "busy" in a process that was forked in the meantime.
fn interpreter_of(given: Option<&str>, source: &str) -> Vec<String> {
    let line = given.or_else(|| source.lines().next().and_then(|line| line.strip_prefix("#!")));
    let words: Vec<String> = line.unwrap_or("/bin/sh").split_whitespace().map(str::to_owned).collect();
    if words.is_empty() { vec!["/bin/sh".into()] } else { words }
}

fn spawn_failure(program: &Path, error: &io::Error) -> NotStarted {
    let program = program.display();
    NotStarted::of(error, "no process can be started", || match error.kind() {
        io::ErrorKind::NotFound => FailureCause::CommandNotFound(program.to_string()),
        io::ErrorKind::PermissionDenied => FailureCause::PermissionDenied(program.to_string()),
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            FailureCause::PermissionDenied(format!("{program} is not in a format that can be executed"))
        }
        _ => FailureCause::Spawn(format!("{program}: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_is_given_or_read_from_the_first_line() {
        assert_eq!(interpreter_of(Some("bash -e"), "#!/bin/sh"), ["bash", "-e"]);
        assert_eq!(interpreter_of(None, "#!/usr/bin/env python3\nx"), ["/usr/bin/env", "python3"]);
        assert_eq!(interpreter_of(None, "echo"), ["/bin/sh"]);
        assert_eq!(interpreter_of(None, "#!\n"), ["/bin/sh"]);
    }
}
