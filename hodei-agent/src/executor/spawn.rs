use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use hodei_core::artifact::WorkspacePath;
use hodei_core::job::{Command, FailureCause, JobSpec};
use rustix::process::{Pid, PidfdFlags};
use tempfile::NamedTempFile;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::Job;
use super::cgroup::{Cgroup, Cgroups};
use super::children::{Children, Known};
use super::environment::environment;
use super::helper::Helper;
use super::resolve::resolve;
use super::secrets::{Given, Injected, SecretInjector};
use super::shortage::NotStarted;
use super::tree::Marks;
use super::workspace::WorkspacePool;

/// A started process with its ends of the pipes.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) pid: Pid,
    pub(super) exit: AsyncFd<OwnedFd>,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    /// Until the child has been waited for.
    pub(super) known: Option<Known>,
    pub(super) belongings: Belongings,
}

/// What is there for a process and goes with it.
#[derive(Debug)]
pub(super) struct Belongings {
    /// The file of a script.
    _script: Option<NamedTempFile>,
    /// What it was given of its secrets.
    pub(super) secrets: Injected,
    /// What holds it to its limits.
    pub(super) cgroup: Option<Cgroup>,
}

/// Where processes are started, and how.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) marks: Marks,
    pub(super) children: Children,
    pub(super) cgroups: Cgroups,
    pub(super) helper: Helper,
    pub(super) workspaces: WorkspacePool,
}

/// Starts the main process of a job, in a process group of its own, in its workspace if it has one.
///
/// Everything is arranged so that the standard library uses `posix_spawn`: it forks when the environment is
/// cleared and the program is a bare name, and a fork of a large process is fifty times as slow.
pub(super) fn spawn(
    job: &Job,
    given: &Given,
    host: &Host,
    workspace: Option<&Path>,
) -> Result<Spawned, NotStarted> {
    let Host { marks, children, cgroups, helper, .. } = host;
    let secrets = SecretInjector::new(marks).inject(job, given)?;
    let variables = environment(job, marks, workspace, secrets.dir());
    let dir = working_dir(&job.spec, workspace)?;
    let (argv, script) = command_line(&job.spec, &variables)?;
    let path = variables.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let program = resolve(&argv[0], &path, &dir)?;
    let cgroup = Cgroup::make(cgroups, marks, job.attempt, job.spec.resources());
    let cgroup = cgroup.map_err(|error| {
        let cause = || FailureCause::Infrastructure(format!("its limits cannot be set: {error}"));
        NotStarted::of(&error, "its limits cannot be set", cause)
    })?;
    let mut command = match &cgroup {
        None => {
            let mut command = std::process::Command::new(&program);
            command.arg0(&argv[0]).args(&argv[1..]);
            command
        }
        Some(cgroup) => {
            let line = helper.wrap(&cgroup.procs(), &program, &argv);
            let mut command = std::process::Command::new(&line[0]);
            command.args(&line[1..]);
            command
        }
    };
    command
        .env_clear()
        .envs(variables)
        .process_group(0)
        .stdin(if secrets.stdin().is_none() && job.spec.stdin().is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if workspace.is_some() || job.spec.working_dir().is_some() {
        command.current_dir(&dir);
    }
    let started = children.start(job.attempt, || again_while_busy(|| command.spawn()));
    let (child, known) = started.map_err(|error| spawn_failure(&program, &error))?;
    watch(child, known, Belongings { _script: script, secrets, cgroup }).map_err(|error| {
        let cause = || FailureCause::Infrastructure(format!("the process cannot be watched: {error}"));
        NotStarted::of(&error, "the process cannot be watched", cause)
    })
}

/// A program that was written a moment ago is busy for as long as another job is being started, which has our open files
/// until it is.
fn again_while_busy(mut spawn: impl FnMut() -> io::Result<Child>) -> io::Result<Child> {
    for _ in 0..20 {
        match spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(1));
            }
            spawned => return spawned,
        }
    }
    spawn()
}

/// Readable once the child has ended; it still has to be waited for.
///
/// # Errors
/// When the system gives no more descriptors.
pub fn watch_exit(child: &Child) -> io::Result<AsyncFd<OwnedFd>> {
    watch_pid(Pid::from_child(child))
}

#[expect(
    deprecated,
    reason = "sound for an OwnedFd, which keeps its descriptor; the replacement is an unsafe fn"
)]
pub(super) fn watch_pid(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)
}

fn watch(mut child: Child, known: Known, belongings: Belongings) -> io::Result<Spawned> {
    let parts = (|| {
        let missing = || io::Error::other("a pipe is missing");
        let (pid, exit) = (Pid::from_child(&child), watch_exit(&child)?);
        let stdin = child.stdin.take().map(|end| pipe::Sender::from_owned_fd(end.into())).transpose()?;
        let stdout = pipe::Receiver::from_owned_fd(child.stdout.take().ok_or_else(missing)?.into())?;
        let stderr = pipe::Receiver::from_owned_fd(child.stderr.take().ok_or_else(missing)?.into())?;
        io::Result::Ok((pid, exit, stdin, stdout, stderr))
    })();
    match parts {
        Ok((pid, exit, stdin, stdout, stderr)) => {
            Ok(Spawned { child, pid, exit, stdin, stdout, stderr, known: Some(known), belongings })
        }
        Err(error) => {
            // Out of file descriptors, most likely: the process must not outlive the failure.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn working_dir(spec: &JobSpec, workspace: Option<&Path>) -> Result<PathBuf, NotStarted> {
    let here = || std::env::current_dir().unwrap_or_else(|_| Path::new("/").to_owned());
    let workspace = workspace.map_or_else(here, Path::to_owned);
    let Some(dir) = spec.working_dir() else { return Ok(workspace) };
    // A job that was submitted before there were workspaces may have another.
    let inside =
        dir.parse::<WorkspacePath>().map_err(|error| FailureCause::FileNotFound(error.to_string()))?;
    let dir = workspace.join(inside.as_str());
    match std::fs::create_dir_all(&dir) {
        Ok(()) => Ok(dir),
        Err(error) => {
            let why = format!("the working directory {} cannot be made: {error}", dir.display());
            Err(NotStarted::of(&error, "the working directory cannot be made", || match error.kind() {
                io::ErrorKind::PermissionDenied => FailureCause::PermissionDenied(why),
                _ => FailureCause::FileNotFound(why),
            }))
        }
    }
}

fn command_line(
    spec: &JobSpec,
    variables: &BTreeMap<OsString, OsString>,
) -> Result<(Vec<String>, Option<NamedTempFile>), NotStarted> {
    match spec.what() {
        Command::Argv(argv) => Ok((argv.clone(), None)),
        Command::Shell(line) => Ok((vec!["/bin/sh".into(), "-c".into(), line.clone()], None)),
        Command::Script { interpreter, source } => {
            let dir = variables.get(OsStr::new("TMPDIR")).map_or_else(std::env::temp_dir, PathBuf::from);
            let file = write_script(&dir, source).map_err(|error| {
                let why = format!("the script cannot be written to {}: {error}", dir.display());
                NotStarted::of(&error, "the script cannot be written", || match error.kind() {
                    // The job's own TMPDIR: trying again would change nothing.
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FailureCause::FileNotFound(why),
                    io::ErrorKind::PermissionDenied => FailureCause::PermissionDenied(why),
                    _ => FailureCause::Io(why),
                })
            })?;
            let mut argv = interpreter_of(interpreter.as_deref(), source);
            argv.push(file.path().display().to_string());
            Ok((argv, Some(file)))
        }
    }
}

fn write_script(dir: &Path, source: &str) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("hodei-script-").tempfile_in(dir)?;
    file.write_all(source.as_bytes())?;
    Ok(file)
}

/// The interpreter as given, by the script's first line, or the shell. The file itself is never executed: a
/// file that was just written may be "busy" in a process that was forked meanwhile.
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
