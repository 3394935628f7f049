//! The flags that describe a job, for `hodei run` and `hodei job submit`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hodei_sdk::job::{Command, limits};
use hodei_sdk::time::{ParseDurationError, parse_duration};
use hodei_sdk::{
    ArtifactInput, ArtifactOutput, Constraint, JobResources, JobSpec, JobSpecBuilder, Priority, SecretRef,
};

use crate::error::CliError;

/// Options that describe a job.
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct SpecArgs {
    /// Set an environment variable of the job.
    #[arg(long, value_name = "K=V", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Run the job in this directory, which is created if missing; a relative path is within the job's workspace
    /// [default: the workspace; without a daemon, the current directory].
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Copy an artifact of another job into the workspace before the job starts, under its own name or at PATH.
    #[arg(long, value_name = "JOB/NAME[:PATH]")]
    input: Vec<ArtifactInput>,
    /// Keep a file of the workspace, or all files below a directory; with `:always` also when the job fails. See
    /// `hodei job artifacts`.
    #[arg(long, value_name = "PATH[:always]")]
    artifact: Vec<ArtifactOutput>,
    /// Keep the workspace when the job ends, as a directory hodei-kept-JOB.ATTEMPT that you inspect and remove.
    #[arg(long)]
    keep_workspace: bool,
    /// Stop the job after this time, such as 500ms, 1.5s, 2m, 1h30m or 7d.
    #[arg(long, value_name = "DURATION", value_parser = duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
    /// Set the time between TERM and KILL when the job is stopped [default: 5s].
    #[arg(long, value_name = "DURATION", value_parser = duration, allow_hyphen_values = true)]
    kill_grace: Option<Duration>,
    /// Retry the job up to N times when it fails by its exit code, a signal or its timeout [default: 0].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    retries: Option<u32>,
    /// Set the priority: low, normal, high, critical, or a number [default: normal].
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<Priority>,
    /// Pass a file, or with `-` the standard input of this command, to the job's standard input: at most 1 MiB, read
    /// to its end before the job starts [default: empty].
    #[arg(long, value_name = "FILE|-")]
    stdin: Option<PathBuf>,
    /// Submit at most one job with this key: a repeat with the same options returns the existing job.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Add a label, to find the job by.
    #[arg(long, value_name = "K=V", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Run only on a worker whose labels meet this condition, such as 'arch EQ x86_64'.
    #[arg(long, value_name = "KEY OP VALUE")]
    constraint: Vec<Constraint>,
    /// Limit the memory of the job, such as 512m or 2g; a job that uses more is killed.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Limit the processors of the job, such as 0.5 or 2.
    #[arg(long, value_name = "N", value_parser = cpus)]
    cpus: Option<u32>,
    /// Limit the number of the job's processes and threads at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pids: Option<u32>,
    /// Give the job a secret, as a file of this name in the directory HODEI_SECRETS_DIR, or with `:stdin` in a JSON
    /// object on standard input.
    #[arg(long, value_name = "NAME[:stdin]")]
    secret: Vec<SecretRef>,
    /// Run the job in a container image, if a provider supports it.
    #[arg(long)]
    image: Option<String>,
    /// Name the job.
    #[arg(long)]
    name: Option<String>,
    /// Run a line with /bin/sh instead of a program.
    #[arg(long, value_name = "LINE", conflicts_with_all = ["script", "command"])]
    shell: Option<String>,
    /// Run the script in this file instead of a program; its first line may name the interpreter.
    #[arg(long, value_name = "FILE", conflicts_with = "command")]
    script: Option<PathBuf>,
    /// Run the script with this interpreter, which may have arguments.
    #[arg(long, value_name = "PROGRAM")]
    interpreter: Option<String>,
    /// The program and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl SpecArgs {
    /// Builds the spec that these options describe.
    pub(crate) fn spec(self) -> Result<JobSpec, CliError> {
        let mut spec = self
            .command_spec()?
            .retries(self.retries.unwrap_or_default())
            .priority(self.priority.unwrap_or_default());
        if let Some(name) = self.name {
            spec = spec.name(name);
        }
        for (key, value) in self.env {
            spec = spec.env(key, value);
        }
        if let Some(key) = self.idempotency_key {
            spec = spec.idempotency_key(key);
        }
        for (key, value) in self.label {
            spec = spec.label(key, value);
        }
        for constraint in self.constraint {
            spec = spec.constraint(constraint);
        }
        let resources = JobResources {
            memory_bytes: self.memory.unwrap_or_default(),
            cpu_millis: self.cpus.unwrap_or_default(),
            pids: self.pids.unwrap_or_default(),
            ..JobResources::default()
        };
        spec = spec.resources(resources);
        for secret in self.secret {
            spec = spec.secret(secret);
        }
        for input in self.input {
            spec = spec.input(input);
        }
        for output in self.artifact {
            spec = spec.output(output);
        }
        if self.keep_workspace {
            spec = spec.keep_workspace();
        }
        if let Some(dir) = self.cwd {
            spec = spec.working_dir(dir);
        }
        if let Some(timeout) = self.timeout {
            spec = spec.timeout(timeout);
        }
        if let Some(grace) = self.kill_grace {
            spec = spec.kill_grace(grace);
        }
        if let Some(image) = self.image {
            spec = spec.image(image);
        }
        if let Some(source) = self.stdin {
            spec = spec.stdin(read_stdin(&source)?);
        }
        Ok(spec.build()?)
    }

    /// Starts the spec with the command, the shell line or the script.
    fn command_spec(&self) -> Result<JobSpecBuilder, CliError> {
        let spec = match (&self.shell, &self.script) {
            (Some(line), _) => JobSpec::shell(line),
            (None, Some(path)) => {
                let spec = JobSpec::script(text(path, read(path, limits::SPEC_BYTES)?)?);
                match extension(path) {
                    Some(extension) => spec.script_extension(extension),
                    None => spec,
                }
            }
            (None, None) if self.command.is_empty() => return Err(CliError::Nothing),
            (None, None) => JobSpec::command(self.command.iter().cloned()),
        };
        Ok(match &self.interpreter {
            Some(program) => spec.interpreter(program),
            None => spec,
        })
    }
}

/// Returns the extension of a script's file name, if the script of a job may have it.
fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str().filter(|extension| Command::is_extension(extension))
}

/// Sets the working directory of a spec without one to the current directory: a later command may run a job of a data
/// directory from somewhere else.
pub(crate) fn in_this_directory(spec: JobSpec) -> JobSpec {
    match std::env::current_dir().ok().and_then(|dir| dir.into_os_string().into_string().ok()) {
        Some(dir) => spec.or_in(dir),
        None => spec,
    }
}

fn read_stdin(source: &Path) -> Result<Vec<u8>, CliError> {
    if source != Path::new("-") {
        return read(source, limits::STDIN_BYTES);
    }
    let mut bytes = Vec::new();
    let limited = std::io::stdin().lock().take(limits::STDIN_BYTES as u64 + 1).read_to_end(&mut bytes);
    limited.map(|_| bytes).map_err(CliError::Stdin)
}

/// Reads at most one byte over `limit`: the check of the limit reports its own error, and an endless file does not
/// hang.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, CliError> {
    let wrap = |error| CliError::File { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(wrap)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(wrap)?;
    Ok(bytes)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, CliError> {
    String::from_utf8(bytes).map_err(|_| CliError::NotText(path.display().to_string()))
}

/// Parses `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no `=`: write NAME=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses a number of bytes. The units k, m, g and t are powers of 1,024; a fraction needs a unit.
fn size(text: &str) -> Result<u64, String> {
    let malformed = || {
        format!(
            "`{text}` is not a valid size: write a number of bytes, or a number with k, m, g or t, such as 512m"
        )
    };
    let lower = text.to_ascii_lowercase();
    let written = lower.trim_end_matches("ib").trim_end_matches('b');
    let with_unit = [('k', 10), ('m', 20), ('g', 30), ('t', 40)]
        .into_iter()
        .find_map(|(unit, power)| Some((written.strip_suffix(unit)?, power)));
    let (number, power) = with_unit.unwrap_or((written, 0));
    let unit = 1_u64 << power;
    let bytes = match number.split_once('.') {
        None => number.parse().ok().and_then(|number: u64| number.checked_mul(unit)),
        Some((whole, part)) if power > 0 && [whole, part].iter().all(|digits| is_number(digits)) => {
            let bytes = number.parse::<f64>().map_err(|_| malformed())? * unit as f64;
            (bytes < u64::MAX as f64).then_some(bytes.round() as u64)
        }
        Some(_) => None,
    };
    bytes.filter(|bytes| *bytes > 0).ok_or_else(malformed)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parses a number of processors; returns thousandths of one.
fn cpus(text: &str) -> Result<u32, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number of processors: write a number such as 0.5 or 2"))?;
    // The spec checks its own minimum, and names its field.
    if (0.001..=1e6).contains(&number) {
        Ok((number * 1000.0).round() as u32)
    } else {
        Err(format!("`{text}` processors are too few or too many: write a number from 0.01 to 1000000"))
    }
}

/// Parses a duration of a job; the error names the range that the spec allows.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| match error {
        ParseDurationError::Negative(_) => format!("{error}: write a duration between 0 and 30 days"),
        ParseDurationError::Malformed(_) => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_or_fractions_of_a_unit() {
        for (text, bytes) in
            [("1", 1), ("512m", 512 << 20), ("1GiB", 1 << 30), ("1.5g", 3 << 29), ("0.5kb", 512)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        let wrong = [
            "",
            "0",
            "1.5",
            "-1",
            "1.g",
            ".5g",
            "1e3k",
            "0.0001k",
            "99999999999999999999",
            "99999999.5t",
            "5x",
            "kk",
        ];
        for text in wrong {
            assert!(size(text).unwrap_err().contains("is not a valid size"), "{text}");
        }
    }
}
