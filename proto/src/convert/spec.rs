//! Job specs: messages to domain and back.

use hodei_core::job::{Backoff, Command, JobSpec, JobSpecBuilder, Priority, RetryPolicy};
use hodei_core::secret::{SecretInjection, SecretRef};

use super::artifact::{input_from_wire, input_to_wire, output_from_wire, output_to_wire};
use super::{
    ConvertError, duration_from_wire, duration_to_wire, parse, resources_from_wire, resources_to_wire,
};
use super::{time_from_wire, time_to_wire};
use crate::v1;
use crate::v1::job_spec::Command as Wire;
use crate::v1::secret_ref::Injection;

/// Returns the wire form of the fields that an agent needs. Fields about where and when to run stay with the scheduler.
pub fn work_to_wire(spec: &JobSpec) -> v1::JobSpec {
    let command = match spec.what() {
        Command::Argv(words) => Wire::Argv(v1::Argv { words: words.clone() }),
        Command::Shell(line) => Wire::Shell(line.clone()),
        Command::Script { interpreter, source, extension } => Wire::Script(v1::Script {
            interpreter: interpreter.clone().unwrap_or_default(),
            source: source.clone(),
            extension: extension.clone().unwrap_or_default(),
        }),
    };
    v1::JobSpec {
        command: Some(command),
        env: spec.env().clone(),
        working_dir: spec.working_dir().unwrap_or_default().to_owned(),
        stdin: spec.stdin().clone(),
        timeout: spec.timeout().map(duration_to_wire),
        kill_grace: Some(duration_to_wire(spec.kill_grace())),
        resources: (!spec.resources().is_one_slot()).then(|| resources_to_wire(spec.resources())),
        secrets: spec.secrets().iter().map(secret_to_wire).collect(),
        inputs: spec.inputs().iter().map(input_to_wire).collect(),
        outputs: spec.outputs().iter().map(output_to_wire).collect(),
        keep_workspace: spec.keep_workspace(),
        ..v1::JobSpec::default()
    }
}

/// Returns the wire form of the whole spec.
pub fn spec_to_wire(spec: &JobSpec) -> v1::JobSpec {
    let retry = spec.retry();
    v1::JobSpec {
        name: spec.given_name().unwrap_or_default().to_owned(),
        image: spec.image().unwrap_or_default().to_owned(),
        constraints: spec.constraints().iter().map(ToString::to_string).collect(),
        priority: spec.priority().0,
        retry: (*retry != RetryPolicy::default()).then(|| v1::RetryPolicy {
            max: retry.max,
            max_infrastructure: retry.max_infrastructure,
            backoff_initial: Some(duration_to_wire(retry.backoff.initial)),
            backoff_max: Some(duration_to_wire(retry.backoff.max)),
            on: retry.on.iter().map(|cause| cause.as_str().to_owned()).collect(),
        }),
        at_most_once: spec.at_most_once(),
        idempotency_key: spec.idempotency_key().unwrap_or_default().to_owned(),
        concurrency: spec
            .concurrency()
            .map(|concurrency| v1::Concurrency { key: concurrency.key.clone(), limit: concurrency.limit }),
        not_before: spec.not_before().map(time_to_wire),
        start_by: spec.start_by().map(time_to_wire),
        labels: spec.labels().clone(),
        ..work_to_wire(spec)
    }
}

/// Reads the spec of a message, checked by [`JobSpecBuilder::build`].
///
/// # Errors
/// [`ConvertError`] when the spec has no command, a malformed field, or breaks a limit.
pub fn spec_from_wire(message: v1::JobSpec) -> Result<JobSpec, ConvertError> {
    let command = match message.command.ok_or(ConvertError::Missing("spec.command"))? {
        Wire::Argv(argv) => Command::Argv(argv.words),
        Wire::Shell(line) => Command::Shell(line),
        Wire::Script(v1::Script { interpreter, source, extension }) => {
            let interpreter = (!interpreter.is_empty()).then_some(interpreter);
            let extension = (!extension.is_empty()).then_some(extension);
            Command::Script { interpreter, source, extension }
        }
    };
    let some = |text: String| (!text.is_empty()).then_some(text);
    let mut builder = JobSpecBuilder::new(command)
        .working_dir(message.working_dir)
        .stdin(message.stdin)
        .priority(Priority(message.priority))
        .resources(message.resources.as_ref().map(resources_from_wire).unwrap_or_default());
    if let Some(timeout) = &message.timeout {
        builder = builder.timeout(duration_from_wire("timeout", timeout)?);
    }
    if let Some(grace) = &message.kill_grace {
        builder = builder.kill_grace(duration_from_wire("kill_grace", grace)?);
    }
    if let Some(name) = some(message.name) {
        builder = builder.name(name);
    }
    if let Some(image) = some(message.image) {
        builder = builder.image(image);
    }
    if let Some(retry) = message.retry {
        builder = builder.retry(retry_from_wire(retry)?);
    }
    if message.at_most_once {
        builder = builder.at_most_once();
    }
    if let Some(key) = some(message.idempotency_key) {
        builder = builder.idempotency_key(key);
    }
    if let Some(v1::Concurrency { key, limit }) = message.concurrency {
        builder = builder.concurrency(key, limit);
    }
    if let Some(at) = &message.not_before {
        builder = builder.not_before(time_from_wire(at));
    }
    if let Some(at) = &message.start_by {
        builder = builder.start_by(time_from_wire(at));
    }
    for constraint in message.constraints {
        builder = builder.constraint(parse("constraints", &constraint)?);
    }
    for (key, value) in message.env {
        builder = builder.env(key, value);
    }
    for (key, value) in message.labels {
        builder = builder.label(key, value);
    }
    for secret in message.secrets {
        builder = builder.secret(secret_from_wire(&secret)?);
    }
    for input in message.inputs {
        builder = builder.input(input_from_wire(&input)?);
    }
    for output in message.outputs {
        builder = builder.output(output_from_wire(&output)?);
    }
    if message.keep_workspace {
        builder = builder.keep_workspace();
    }
    Ok(builder.build()?)
}

fn secret_to_wire(secret: &SecretRef) -> v1::SecretRef {
    let injection = match secret.inject {
        SecretInjection::File => Injection::File,
        SecretInjection::Stdin => Injection::Stdin,
    };
    v1::SecretRef { name: secret.name.to_string(), injection: injection.into() }
}

fn secret_from_wire(message: &v1::SecretRef) -> Result<SecretRef, ConvertError> {
    let inject = match Injection::try_from(message.injection) {
        Ok(Injection::Unspecified | Injection::File) => SecretInjection::File,
        Ok(Injection::Stdin) => SecretInjection::Stdin,
        Err(_) => return Err(ConvertError::Malformed("secrets.injection")),
    };
    Ok(SecretRef { name: parse("secrets", &message.name)?, inject })
}

fn retry_from_wire(message: v1::RetryPolicy) -> Result<RetryPolicy, ConvertError> {
    let default = Backoff::default();
    let wait = |field, message: Option<prost_types::Duration>, default| {
        message.as_ref().map_or(Ok(default), |duration| duration_from_wire(field, duration))
    };
    Ok(RetryPolicy {
        max: message.max,
        max_infrastructure: message.max_infrastructure,
        backoff: Backoff {
            initial: wait("retry.backoff_initial", message.backoff_initial, default.initial)?,
            max: wait("retry.backoff_max", message.backoff_max, default.max)?,
        },
        on: message.on.iter().map(|cause| parse("retry.on", cause)).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hodei_core::job::{CauseKind, JobResources};
    use hodei_core::time::Timestamp;

    use super::*;

    #[test]
    fn a_spec_round_trips_with_every_field() {
        let spec = JobSpec::script("echo hi")
            .interpreter("sh -e")
            .script_extension("sh")
            .env("A", "b")
            .working_dir("sub/dir")
            .stdin("in")
            .timeout(Duration::from_millis(1500))
            .kill_grace(Duration::ZERO)
            .name("greet")
            .image("alpine")
            .resources(JobResources { cpu_millis: 1, memory_bytes: 2, disk_bytes: 3, gpus: 4, pids: 5 })
            .constraint("os IN linux,mac".parse().unwrap())
            .priority(Priority::HIGH)
            .retry(RetryPolicy {
                max: 2,
                max_infrastructure: 0,
                backoff: Backoff { initial: Duration::ZERO, max: Duration::from_secs(7) },
                on: vec![CauseKind::Exit, CauseKind::Timeout],
            })
            .idempotency_key("key")
            .concurrency("group", 3)
            .not_before(Timestamp::from_micros(1_500_000))
            .start_by(Timestamp::from_micros(2_500_000))
            .label("team", "a")
            .secret("db".parse().unwrap())
            .input(format!("{}/out/a:in/a", uuid::Uuid::from_u128(7)).parse().unwrap())
            .output("out/a".parse().unwrap())
            .output("log:always".parse().unwrap())
            .keep_workspace()
            .build()
            .unwrap();
        assert_eq!(spec_from_wire(spec_to_wire(&spec)).unwrap(), spec);
        let once = JobSpec::shell("x").at_most_once().secret("db:stdin".parse().unwrap()).build().unwrap();
        assert_eq!(spec_from_wire(spec_to_wire(&once)).unwrap(), once);
    }

    #[test]
    fn an_agent_gets_only_the_fields_that_it_needs() {
        let spec =
            JobSpec::command(["true"]).label("secret", "plan").priority(Priority::HIGH).build().unwrap();
        let work = spec_from_wire(work_to_wire(&spec)).unwrap();
        assert_eq!((work.labels().len(), work.priority()), (0, Priority::NORMAL));
        assert_eq!(work.what(), spec.what());
    }

    #[test]
    fn a_bad_field_is_named() {
        assert_eq!(spec_from_wire(v1::JobSpec::default()), Err(ConvertError::Missing("spec.command")));
        let ok = spec_to_wire(&JobSpec::shell("x").build().unwrap());
        let bad = v1::JobSpec { constraints: vec!["os".into()], ..ok.clone() };
        assert_eq!(spec_from_wire(bad).unwrap_err().field(), "constraints");
        let timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        assert_eq!(spec_from_wire(v1::JobSpec { timeout, ..ok.clone() }).unwrap_err().field(), "timeout");
        let retry = Some(v1::RetryPolicy { on: vec!["hunger".into()], ..v1::RetryPolicy::default() });
        assert_eq!(spec_from_wire(v1::JobSpec { retry, ..ok.clone() }).unwrap_err().field(), "retry.on");
        let outputs = vec![v1::ArtifactOutput { path: "../x".into(), on_failure: false }];
        assert_eq!(spec_from_wire(v1::JobSpec { outputs, ..ok }).unwrap_err().field(), "outputs.path");
    }
}
