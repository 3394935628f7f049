//! Checks on new jobs beyond the shape of their spec: commands that no kernel can start, limits that are too small to
//! mean anything, and ids that a store cannot order by time.

use super::builder::{SpecError, limit, refuse};
use super::limits;
use super::{Command, JobSpec};
use crate::artifact::WorkspacePath;
use crate::id::JobId;
use crate::time::Timestamp;

/// Checks a spec at its submit, beyond the checks of [`JobSpecBuilder::build`](super::JobSpecBuilder::build). Stored
/// specs that would fail these checks are still read.
///
/// # Errors
/// As [`JobSpecBuilder::build`](super::JobSpecBuilder::build).
pub fn check_new(spec: &JobSpec) -> Result<(), SpecError> {
    check_working_dir(spec)?;
    check_exec(spec)?;
    check_inputs(spec)?;
    check_resources(spec)
}

fn check_inputs(spec: &JobSpec) -> Result<(), SpecError> {
    let paths = || spec.inputs().iter().map(|input| &input.path);
    if paths().any(|above| paths().any(|path| path.is_beneath(above))) {
        return refuse("inputs", "has a path below the path of another input, which is a file");
    }
    Ok(())
}

fn check_working_dir(spec: &JobSpec) -> Result<(), SpecError> {
    let Some(dir) = spec.working_dir() else { return Ok(()) };
    if dir.starts_with('/') {
        limit("working_dir", "bytes", dir.len(), limits::WORKING_DIR_BYTES)?;
        let longest = dir.split('/').map(str::len).max().unwrap_or_default();
        return limit("working_dir", "bytes in one name", longest, WorkspacePath::LONGEST_NAME);
    }
    if dir.parse::<WorkspacePath>().is_err() {
        return refuse(
            "working_dir",
            "is neither an absolute path nor one inside the workspace: write a path without `..`, of at most 1024 bytes",
        );
    }
    Ok(())
}

/// Applies the limits of execve(2): each text ends with a NUL, which counts, and all texts share a part of the stack
/// with their addresses.
fn check_exec(spec: &JobSpec) -> Result<(), SpecError> {
    const ARGUMENT_UNIT: &str = "bytes in one argument";
    let argv = match spec.what() {
        Command::Argv(argv) => argv.iter().map(String::len).collect(),
        Command::Shell(line) => {
            let unit = "bytes in one line, too long for `sh -c`: give it as a script";
            limit("shell", unit, line.len(), limits::ARGUMENT_BYTES)?;
            vec![line.len()]
        }
        Command::Script { interpreter, .. } => {
            if interpreter.as_ref().is_some_and(|program| program.contains('\0')) {
                return refuse("interpreter", "has a NUL byte, which no program can be given: remove it");
            }
            interpreter.iter().map(String::len).collect()
        }
    };
    let field = if matches!(spec.what(), Command::Script { .. }) { "interpreter" } else { "command" };
    limit(field, ARGUMENT_UNIT, argv.iter().copied().max().unwrap_or(0), limits::ARGUMENT_BYTES)?;
    let variables = || spec.env().iter().map(|(name, value)| name.len() + 1 + value.len());
    limit("env", "bytes in one NAME=VALUE", variables().max().unwrap_or(0), limits::ARGUMENT_BYTES)?;
    let all: usize = argv.into_iter().chain(variables()).map(|bytes| bytes + 1 + size_of::<u64>()).sum();
    let unit = "bytes with env, each text with its NUL and 8 bytes of address";
    limit("command", unit, all, limits::EXEC_BYTES)
}

fn check_resources(spec: &JobSpec) -> Result<(), SpecError> {
    let asked = spec.resources();
    if (1..limits::MEMORY_MIN).contains(&asked.memory_bytes) {
        return refuse(
            "resources.memory_bytes",
            "is below 1048576, in which no program runs: it is in bytes, so 64 MiB are 67108864, or `--memory 64m`",
        );
    }
    if (1..limits::CPU_MILLIS_MIN).contains(&asked.cpu_millis) {
        return refuse(
            "resources.cpu_millis",
            "is below 10: it is in thousandths of a processor, of which the kernel counts no fewer",
        );
    }
    Ok(())
}

/// Checks the id that a caller made for a new job: stores order, page and forget jobs by the time in it.
///
/// # Errors
/// [`SpecError`] of the field `id` for a UUID that is not of version 7, or whose time is more than
/// [`ID_AHEAD`](limits::ID_AHEAD) ahead of `now`.
pub fn check_new_id(id: JobId, now: Timestamp) -> Result<(), SpecError> {
    match id.made_at() {
        None => refuse("id", "is not a UUID of version 7, whose first 48 bits are milliseconds since 1970"),
        Some(at) if at.since(now) > limits::ID_AHEAD => {
            refuse("id", "is a UUID whose time lies more than a day ahead: look at the clock of its maker")
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::job::{JobResources, JobSpecBuilder};

    fn refusal(spec: JobSpecBuilder) -> Option<(String, String)> {
        let refused = spec.build().and_then(|spec| check_new(&spec)).err()?;
        Some((refused.field().to_owned(), refused.to_string()))
    }

    #[test]
    fn a_command_that_no_kernel_starts_is_refused_with_its_field_and_limit() {
        let ok = || JobSpec::command(["true"]);
        let long = |bytes: usize| "x".repeat(bytes);
        for (spec, field, word) in [
            (JobSpec::command(["echo".into(), long(131_072)]), "command", "131071"),
            (JobSpec::command([long(131_072)]), "command", "131071"),
            (JobSpec::shell(long(131_072)), "shell", "script"),
            (JobSpec::script("x").interpreter(long(131_072)), "interpreter", "131071"),
            (JobSpec::script("x").interpreter("sh\0"), "interpreter", "NUL"),
            (ok().env("A", long(131_070)), "env", "131071"),
            (ok().env("LONGER", long(131_065)), "env", "131071"),
            (JobSpec::command(vec!["x".to_owned(); 200_000]), "command", "2000000 bytes"),
            ((0..130_000).fold(ok(), |spec, n| spec.env(format!("V{n}"), "")), "command", "env"),
        ] {
            let (refused, why) = refusal(spec).expect(field);
            assert!(refused == field && why.contains(word), "{refused}: {why}");
        }
        for spec in [
            JobSpec::command(["echo".into(), long(131_071)]),
            JobSpec::shell(long(131_071)),
            JobSpec::script(long(1_000_000)),
            ok().env("A", long(131_069)),
            JobSpec::command(vec!["x".to_owned(); 190_000]),
        ] {
            assert_eq!(refusal(spec), None);
        }
    }

    #[test]
    fn an_input_below_another_is_refused() {
        let input =
            |text: &str| format!("{}/{text}", JobId::from_uuid(uuid::Uuid::from_u128(7))).parse().unwrap();
        let with = |path| refusal(JobSpec::command(["true"]).input(input("a:z")).input(input(path)));
        assert_eq!(with("b:z/y/x").map(|(field, _)| field).as_deref(), Some("inputs"));
        assert_eq!(with("b:zy/x"), None);
    }

    #[test]
    fn limits_that_are_too_small_are_refused_with_their_unit() {
        let with = |resources| refusal(JobSpec::command(["true"]).resources(resources));
        let none = JobResources::default();
        for (resources, field, unit) in [
            (JobResources { memory_bytes: 64, ..none }, "resources.memory_bytes", "64m"),
            (JobResources { memory_bytes: (1 << 20) - 1, ..none }, "resources.memory_bytes", "bytes"),
            (JobResources { cpu_millis: 1, ..none }, "resources.cpu_millis", "thousandths"),
            (JobResources { cpu_millis: 9, ..none }, "resources.cpu_millis", "10"),
        ] {
            let (refused, why) = with(resources).expect(field);
            assert!(refused == field && why.contains(unit), "{refused}: {why}");
        }
        let least = JobResources { memory_bytes: 1 << 20, cpu_millis: 10, pids: 1, ..none };
        assert_eq!((with(least), with(none)), (None, None));
    }

    #[test]
    fn an_id_is_of_version_7_and_not_far_ahead() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let day = 24 * 3600 * 1000;
        let at = |millis: i64| {
            let millis = u64::try_from(1_800_000_000_000 + millis).unwrap();
            JobId::from_uuid(uuid::Builder::from_unix_timestamp_millis(millis, &[7; 10]).into_uuid())
        };
        for id in [at(0), at(day), at(-day * 9999)] {
            assert_eq!(check_new_id(id, now), Ok(()), "{id}");
        }
        let v4 = uuid::Builder::from_random_bytes([9; 16]).into_uuid();
        let odd_variant = Uuid::from_u128(at(0).as_uuid().as_u128() | 3 << 62);
        let others = [Uuid::nil(), Uuid::max(), v4, Uuid::from_u128(7), odd_variant].map(JobId::from_uuid);
        for id in others.into_iter().chain([at(day + 1), at(day * 999)]) {
            assert_eq!(check_new_id(id, now).unwrap_err().field(), "id", "{id}");
        }
    }

    #[test]
    fn a_stored_spec_that_breaks_new_rules_is_read() {
        let resources = JobResources { memory_bytes: 64, cpu_millis: 1, ..JobResources::default() };
        let old = JobSpec::shell("x".repeat(200_000)).resources(resources).env("A", "x".repeat(200_000));
        assert!(old.build().is_ok_and(|spec| check_new(&spec).is_err()));
    }
}
