//! Secrets: they reach the jobs that name them, and appear nowhere else.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hodei_sdk::job::TenantId;
use hodei_sdk::port::{ClockExt, LogBody, LogRecord, SecretError, SecretInfo, SecretProvider};
use hodei_sdk::{
    Error, FailureCause, Hodei, HodeiBuilder, Job, JobSpec, JobSpecBuilder, JobStatus, LocalOptions,
    LocalProvider, LogItem, MemorySecrets, MemoryStore, Outcome, SecretName, SecretPolicy, SecretRefusal,
    SecretRule, SecretValue, Settings, SystemClock, SystemIds,
};

const CANARY: &str = "c4n4ry/with+odd chars?&\"\\";

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn value(text: &str) -> SecretValue {
    SecretValue::new(text.as_bytes().to_vec()).unwrap()
}

fn builder() -> HodeiBuilder {
    // A new store id, by which the files of this test are identified.
    Hodei::builder().settings(Settings::quick())
}

fn with(spec: JobSpecBuilder, secret: &str) -> JobSpec {
    spec.secret(secret.parse().unwrap()).build().unwrap()
}

fn bytes(item: &LogItem) -> Bytes {
    match item {
        LogItem::Record { record: LogRecord { body: LogBody::Chunk { bytes, .. }, .. }, .. } => bytes.clone(),
        other => panic!("{other:?}"),
    }
}

async fn run(hodei: &Hodei, spec: JobSpec) -> (Arc<Job>, String) {
    let job = hodei.submit(spec).await.unwrap();
    let mut logs = job.logs();
    let mut text = Vec::new();
    while let Some(item) = logs.next().await.unwrap() {
        text.extend_from_slice(&bytes(&item));
    }
    (job.wait().await.unwrap(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_job_reads_its_secret_and_its_output_does_not_show_it() {
    let hodei = builder().start().await.unwrap();
    hodei.secrets().put(&name("canary"), value(CANARY)).await.unwrap();
    let script = r#"
        cd "$HODEI_SECRETS_DIR" && stat -c '%a' . canary && ls
        cat canary; echo
        base64 -w0 canary; echo
        sed 's/%/%25/g; s,/,%2F,g; s/+/%2B/g; s/ /%20/g; s/?/%3F/g; s/&/%26/g; s/"/%22/g; s/\\/%5C/g' canary; echo
        sed 's/\\/\\\\/g; s/"/\\"/g; s/.*/{"value": "&"}/' canary; echo
        od -An -v -tx1 canary | tr -d ' \n'; echo
        head -c 9 canary; sleep 0.1; tail -c +10 canary; echo
        cat canary >&2; echo >&2
        env | grep -c c4n4ry
        pwd"#;
    let (job, output) = run(&hodei, with(JobSpec::shell(script), "canary")).await;
    assert_eq!(job.status(), JobStatus::Succeeded, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..3], ["700", "400", "canary"], "{output}");
    assert_eq!(lines.iter().filter(|line| **line == "***").count(), 6, "{output}");
    assert!(lines.contains(&r#"{"value": "***"}"#), "{output}");
    assert!(lines.contains(&"0"), "the secret is not in the environment: {output}");
    assert!(!output.contains("c4n4ry"), "{output}");
    let dir = lines.last().unwrap();
    assert!(dir.starts_with("/dev/shm/") && !Path::new(dir).exists(), "{dir} is gone with the job");
    hodei.shutdown().await;
}

#[tokio::test]
async fn secrets_on_standard_input_are_complete_json() {
    let hodei = builder().start().await.unwrap();
    hodei.secrets().put(&name("a"), value(CANARY)).await.unwrap();
    hodei.secrets().put(&name("b"), value("pässword")).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let spec = JobSpec::shell("cat > $WORK/got; echo ${HODEI_SECRETS_DIR-none}")
        .env("WORK", dir.path().display().to_string());
    let spec = spec.secret("a:stdin".parse().unwrap()).secret("b:stdin".parse().unwrap());
    let (_, output) = run(&hodei, spec.build().unwrap()).await;
    assert_eq!(output, "none\n");
    let got = std::fs::read_to_string(dir.path().join("got")).unwrap();
    let got: serde_json::Value = serde_json::from_str(&got).unwrap();
    assert_eq!(got, serde_json::json!({"a": CANARY, "b": "pässword"}));
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_refused_submit_names_the_secret() {
    let rule = SecretRule {
        secrets: vec!["prod-*".parse().unwrap()],
        labels: [("stage".to_owned(), "prod".to_owned())].into(),
        ..SecretRule::default()
    };
    let hodei = builder().secret_policy(SecretPolicy { rules: vec![rule] });
    let options = LocalOptions { secrets: vec!["prod-*".parse().unwrap()], ..LocalOptions::default() };
    let hodei = hodei.provider(move |context| LocalProvider::new(context, options)).start().await.unwrap();
    for secret in ["prod-db", "dev-db"] {
        hodei.secrets().put(&name(secret), value("hunter22")).await.unwrap();
    }
    let refused = |spec| async { hodei.submit(spec).await.unwrap_err() };
    let missing = refused(with(JobSpec::shell("true").label("stage", "prod"), "prod-nothing")).await;
    assert!(matches!(missing, Error::SecretRefused { why: SecretRefusal::Missing, .. }), "{missing}");
    let denied = refused(with(JobSpec::shell("true"), "prod-db")).await;
    assert!(matches!(denied, Error::SecretRefused { why: SecretRefusal::Denied, .. }), "{denied}");
    let nowhere = refused(with(JobSpec::shell("true"), "dev-db")).await;
    assert!(matches!(nowhere, Error::Unsupported(_)), "no provider may get it: {nowhere}");
    for error in [&missing, &denied, &nowhere] {
        assert_eq!(error.field(), Some("secrets"));
    }
    let (job, _) = run(&hodei, with(JobSpec::shell("true").label("stage", "prod"), "prod-db")).await;
    assert_eq!(job.status(), JobStatus::Succeeded);
    hodei.shutdown().await;
}

/// A provider of secrets that fails or loses the secret between submit and delivery.
#[derive(Debug)]
struct Fickle {
    inner: MemorySecrets,
    how: How,
    asked: AtomicU32,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Gone,
    Hangs(u32),
    Fails,
}

#[async_trait]
impl SecretProvider for Fickle {
    async fn secrets(
        &self,
        tenant: &TenantId,
        names: &[SecretName],
    ) -> Result<Vec<Option<SecretValue>>, SecretError> {
        match self.how {
            How::Gone => Ok(vec![None; names.len()]),
            How::Fails => Err(SecretError::Unreadable { name: names[0].clone(), why: "no key".into() }),
            How::Hangs(times) if self.asked.fetch_add(1, Ordering::Relaxed) < times => {
                Err(SecretError::Unavailable("it is away".into()))
            }
            How::Hangs(_) => self.inner.secrets(tenant, names).await,
        }
    }

    async fn list(&self, tenant: &TenantId) -> Result<Vec<SecretInfo>, SecretError> {
        self.inner.list(tenant).await
    }

    async fn put(&self, tenant: &TenantId, name: &SecretName, value: SecretValue) -> Result<(), SecretError> {
        self.inner.put(tenant, name, value).await
    }

    async fn delete(&self, tenant: &TenantId, name: &SecretName) -> Result<bool, SecretError> {
        self.inner.delete(tenant, name).await
    }
}

async fn with_fickle(how: How) -> Arc<Job> {
    let inner = MemorySecrets::new(Arc::new(SystemClock::default()));
    let hodei =
        builder().secrets(Arc::new(Fickle { inner, how, asked: AtomicU32::new(0) })).start().await.unwrap();
    hodei.secrets().put(&name("db"), value("hunter22")).await.unwrap();
    let (job, _) = run(&hodei, with(JobSpec::shell("exit 3"), "db")).await;
    hodei.shutdown().await;
    job
}

#[tokio::test]
async fn secrets_are_checked_again_at_delivery() {
    for (how, said) in [(How::Gone, "there is no secret `db`"), (How::Fails, "no key")] {
        let job = with_fickle(how).await;
        let Some(Outcome::Failed(FailureCause::SecretInjection(why))) =
            job.ending().map(|ending| ending.outcome.clone())
        else {
            panic!("{job:?}")
        };
        assert!(why.contains(said), "{why}");
        assert_eq!((job.attempt(), job.started_at()), (1, None), "it has not started and is not retried");
    }
}

#[tokio::test]
async fn a_job_waits_for_an_unavailable_secret_provider() {
    let job = with_fickle(How::Hangs(2)).await;
    assert_eq!(job.ending().unwrap().run.as_ref().unwrap().exit_code, Some(3), "{job:?}");
}

#[tokio::test]
async fn secrets_in_a_data_directory_are_sealed_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let hodei = Hodei::open(&url).await.unwrap();
    assert!(!dir.path().join("secrets.key").exists(), "no key without a secret");
    hodei.secrets().put(&name("canary"), value(CANARY)).await.unwrap();
    hodei.shutdown().await;
    let hodei = Hodei::open(&url).await.unwrap();
    let listed = hodei.secrets().list().await.unwrap();
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["canary"]);
    let (job, output) = run(
        &hodei,
        with(JobSpec::shell("cat $HODEI_SECRETS_DIR/canary; wc -c < $HODEI_SECRETS_DIR/canary"), "canary"),
    )
    .await;
    assert_eq!((job.status(), output), (JobStatus::Succeeded, format!("***{}\n", CANARY.len())));
    assert!(hodei.secrets().delete(&name("canary")).await.unwrap());
    assert!(!hodei.secrets().delete(&name("canary")).await.unwrap());
    hodei.shutdown().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        assert!(!bytes.windows(6).any(|part| part == b"c4n4ry"), "{}", path.display());
    }
}

#[tokio::test]
async fn secrets_are_refused_without_keys() {
    let id = hodei_sdk::port::IdGenerator::uuid(&SystemIds::default(), hodei_sdk::time::Timestamp::EPOCH);
    let hodei = builder().store(Arc::new(MemoryStore::new(id))).start().await.unwrap();
    let refused = hodei.secrets().put(&name("db"), value("hunter22")).await.unwrap_err();
    assert!(matches!(refused, Error::SecretsDisabled), "{refused}");
    let refused = hodei.submit(with(JobSpec::shell("true"), "db")).await.unwrap_err();
    assert!(matches!(refused, Error::SecretsDisabled), "{refused}");
    let specs = vec![with(JobSpec::shell("true"), "db"), JobSpec::shell("true").build().unwrap()];
    let mut answers = hodei.submit_batch(specs).await.unwrap();
    let job = answers.pop().unwrap().unwrap().wait().await.unwrap();
    assert_eq!(job.status(), JobStatus::Succeeded, "a job without secrets needs no provider");
    assert!(matches!(answers.pop(), Some(Err(Error::SecretsDisabled))));
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_repeated_submit_finds_its_job_after_its_secret_is_gone() {
    let hodei = builder().start().await.unwrap();
    hodei.secrets().put(&name("db"), value("hunter22")).await.unwrap();
    let spec = with(JobSpec::shell("true").idempotency_key("once"), "db");
    let first = hodei.submit(spec.clone()).await.unwrap();
    hodei.secrets().delete(&name("db")).await.unwrap();
    assert_eq!(hodei.submit(spec.clone()).await.unwrap().id(), first.id(), "by its key");
    assert_eq!(hodei.submit_as(first.id(), spec).await.unwrap().id(), first.id(), "by its id");
    let refused =
        hodei.submit(with(JobSpec::shell("false").idempotency_key("once"), "db")).await.unwrap_err();
    assert!(matches!(refused, Error::SecretRefused { .. }), "{refused}");
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_cancelled_job_leaves_no_secret_behind() {
    let hodei = builder().start().await.unwrap();
    hodei.secrets().put(&name("db"), value("hunter22")).await.unwrap();
    let job = hodei.submit(with(JobSpec::shell("echo $HODEI_SECRETS_DIR; sleep 60"), "db")).await.unwrap();
    let mut logs = job.logs();
    let first = logs.next().await.unwrap().unwrap();
    let dir = String::from_utf8(bytes(&first).to_vec()).unwrap();
    assert!(Path::new(dir.trim()).join("db").exists(), "{dir}");
    job.cancel().await.unwrap();
    let clock = SystemClock::default();
    clock.timeout(Duration::from_secs(10), job.wait()).await.unwrap().unwrap();
    assert!(!Path::new(dir.trim()).exists(), "{dir}");
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_secret_is_masked_as_shells_and_languages_print_it() {
    let value_of = "it's a \"se$cret\" `of` \\many kinds\nand two\tlines";
    let hodei = builder().start().await.unwrap();
    hodei.secrets().put(&name("odd"), value(value_of)).await.unwrap();
    let script = r#"
        p=$(cat "$HODEI_SECRETS_DIR/odd")
        printf %q "$p"; echo; echo "${p@Q}"; declare -p p
        (set -x; : "$p")
        (set -x; : "$p") 2>&1 | while IFS= read -r -n1 -d '' c; do printf %s "$c"; done
        echo "{\"value\": \"$(printf %s "$p" | sed 's/\\/\\\\/g; s/"/\\"/g' | sed 's/\\/\\\\/g; s/"/\\"/g')\"}"
        command -v python3 > /dev/null && python3 -c 'if True:
            import json, os, shlex, sys
            v = open(os.environ["HODEI_SECRETS_DIR"] + "/odd").read()
            print(repr(v), [v], shlex.quote(v), json.dumps(json.dumps(v)), v.encode())'
        true"#;
    let spec = JobSpec::script(script).interpreter("bash");
    let (job, output) = run(&hodei, with(spec, "odd")).await;
    assert_eq!(job.status(), JobStatus::Succeeded, "{output}");
    for part in ["se$cret", "se\\$cret", "secret", "many", "kinds", "two"] {
        assert!(!output.contains(part), "{part}: {output}");
    }
    assert!(output.matches("***").count() >= 6, "{output}");
    hodei.shutdown().await;
}

#[tokio::test]
async fn a_file_with_a_secret_in_its_name_is_not_kept() {
    let hodei = builder().start().await.unwrap();
    hodei.secrets().put(&name("canary"), value("hunter22-canary")).await.unwrap();
    let secret = r#"p=$(cat "$HODEI_SECRETS_DIR/canary"); mkdir -p out/dir; echo > out/plain;"#;
    for (line, succeeds) in [
        (r#"echo > "out/$p""#, true),
        (r#"mkdir "out/at-$p"; echo > "out/at-$p/file""#, true),
        (r#"echo > "out/$(printf %s "$p" | base64).txt"; exit 3"#, false),
    ] {
        let spec = JobSpec::shell(format!("{secret} {line}")).output("out:always".parse().unwrap());
        let (job, _) = run(&hodei, with(spec, "canary")).await;
        let told = format!("{job:?} {:?}", hodei.jobs().history(job.id()).await.unwrap());
        assert!(!told.contains("hunter22") && !told.contains("aHVudGVyMjI"), "{told}");
        let outcome = &job.ending().unwrap().outcome;
        let named = matches!(outcome, Outcome::Failed(FailureCause::Artifact(why)) if why.contains("***"));
        assert!(named == succeeds, "{outcome:?}");
        let kept: Vec<_> = job.artifacts().iter().map(|artifact| artifact.name.to_string()).collect();
        assert!(succeeds || kept == ["out/plain"], "{kept:?}");
    }
    hodei.shutdown().await;
}
