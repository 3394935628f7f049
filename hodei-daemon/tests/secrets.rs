//! A secret with real programs: it reaches its job, and is found nowhere else.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/programs.rs"]
mod programs;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use hodei_sdk::id::WorkerId;
use hodei_sdk::port::{FeedCursor, LogBody, LogRecord};
use hodei_sdk::{Hodei, JobSpec, JobStatus, LogItem};
use programs::{Daemon, agent_of, output};
use rustix::process::{Signal, kill_process};

/// A secret value, and the encodings of it that must not be found. The source has the value only in parts, so that the
/// test's own binary and arguments do not count as a leak.
struct Canary {
    value: String,
    forms: Vec<Vec<u8>>,
}

impl Canary {
    fn new() -> Self {
        let value = format!("can{}ry/{}+{:x}", "4", "seed 7", std::process::id().wrapping_mul(2_654_435_761));
        let hex = value.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let url = value.replace('/', "%2F").replace('+', "%2B").replace(' ', "%20");
        let forms =
            vec![value.clone().into_bytes(), base64(value.as_bytes()), hex.into_bytes(), url.into_bytes()];
        Self { value, forms }
    }

    /// Whether some bytes contain an encoding of the value.
    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| bytes.windows(form.len()).any(|part| part == &form[..]))
    }
}

/// Encodes bytes as base64, without the last characters, which depend on the bytes that follow.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sixes = bytes.chunks_exact(3).flat_map(|three| {
        let bits = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
        [18, 12, 6, 0].map(|shift| ALPHABET[(bits >> shift & 63) as usize])
    });
    sixes.collect()
}

/// Checks every place that must not have the value.
async fn is_nowhere(canary: &Canary, dir: &Path, hodei: Option<&Hodei>, daemons: &[&Daemon], when: &str) {
    let mut files = vec![dir.to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
        } else if let Ok(bytes) = std::fs::read(&path) {
            assert!(!canary.is_in(&bytes), "{when}: the secret is in {}", path.display());
        }
    }
    for pid in std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(pid.join(file)).unwrap_or_default();
            assert!(!canary.is_in(&bytes), "{when}: the secret is in {}/{file}", pid.display());
        }
    }
    for daemon in daemons {
        assert!(!canary.is_in(daemon.said.lock().unwrap().as_bytes()), "{when}: the secret is in a log");
    }
    let Some(hodei) = hodei else { return };
    let page = hodei.events().read(&FeedCursor::default(), 1000).await.unwrap();
    assert!(page.events.len() > 3);
    assert!(
        !canary.is_in(format!("{:?}", page.events).as_bytes()),
        "{when}: the secret is in the event feed"
    );
}

/// Returns the spool files of an agent, which are open but have no name.
fn spool(worker: WorkerId) -> Vec<PathBuf> {
    let fds = format!("/proc/{}/fd", agent_of(worker).as_raw_nonzero());
    let fds = std::fs::read_dir(fds).unwrap().flatten().map(|entry| entry.path());
    fds.filter(|fd| {
        std::fs::read_link(fd)
            .is_ok_and(|to| to.to_string_lossy().ends_with("(deleted)") && !to.starts_with("/dev/shm"))
    })
    .collect()
}

/// Returns the directories in memory with secrets for jobs of this worker.
fn in_memory(worker: WorkerId) -> Vec<PathBuf> {
    let of = format!(".{worker}.");
    let entries = std::fs::read_dir("/dev/shm").unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir() && path.to_string_lossy().contains(&of)).collect()
}

fn put(daemon: &Daemon, dir: &Path, name: &str, value: &str) -> Output {
    let mut put = daemon.hodei(dir, &["secret", "put", name]);
    let mut put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    put.wait_with_output().unwrap()
}

async fn until(condition: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {condition}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Prints the secret in many encodings. The first attempt then waits for `go`, prints more than the agent keeps in
/// memory, and sleeps.
const JOB: &str = r#"
    cd "$WORK"
    f=$HODEI_SECRETS_DIR/canary
    forms() {
        cat "$f"; echo; base64 "$f"; base64 -w0 "$f"; echo; od -An -v -tx1 "$f" | tr -d ' \n'; echo
        sed 's,/,%2F,g; s/+/%2B/g; s/ /%20/g' "$f"; echo
        head -c 7 "$f"; sleep 0.05; tail -c +8 "$f"; echo; cat "$f" >&2; echo "user:$(cat "$f")" | base64
    }
    forms; echo said; touch "started$HODEI_ATTEMPT"
    [ "$HODEI_ATTEMPT" = 1 ] || exit 0
    while [ ! -e go ]; do sleep 0.05; done
    for i in 1 2 3; do forms; head -c 1000000 /dev/zero | tr '\0' x; done; forms; touch spooled; sleep 300"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_found_nowhere_even_after_kills() {
    let (dir, work, canary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Canary::new());
    let arguments = ["--heartbeat", "250ms", "--lease", "2s", "--log-level", "trace"];
    let start = |address: &str| Daemon::listen_in(dir.path(), address, &arguments, &[("HODEI_LOG", "trace")]);
    let mut first = start("127.0.0.1:0");
    assert!(put(&first, dir.path(), "canary", &canary.value).status.success());
    let hodei = first.connect(dir.path()).await;
    let spec = JobSpec::shell(JOB).env("WORK", work.path().display().to_string());
    let job = hodei.submit(spec.secret("canary".parse().unwrap()).build().unwrap()).await.unwrap();
    until("the job runs", async || work.path().join("started1").exists()).await;
    let worker = job.get().await.unwrap().worker().unwrap();
    assert_eq!(in_memory(worker).len(), 1);
    is_nowhere(&canary, dir.path(), Some(&hodei), &[&first], "while it runs").await;

    first.kill();
    std::fs::write(work.path().join("go"), "").unwrap();
    until("output is in the spool", async || !spool(worker).is_empty()).await;
    until("the pipe is empty", async || work.path().join("spooled").exists()).await;
    for file in spool(worker) {
        assert!(!canary.is_in(&std::fs::read(&file).unwrap()), "the secret is in the spool");
    }
    is_nowhere(&canary, dir.path(), None, &[&first], "with the daemon killed").await;

    let second = start(&format!("127.0.0.1:{}", first.port()));
    until("the worker is back", async || {
        hodei.workers().get(worker).await.is_ok_and(|worker| worker.is_some_and(|worker| worker.connected))
    })
    .await;
    // Output that only the agent has is lost with its kill, so the test waits for some of it.
    let (mut logs, mut seen) = (job.logs(), Vec::new());
    while masks(&seen) < 8 {
        let item = logs.next().await.unwrap().expect("its output goes on");
        if let LogItem::Record { record: LogRecord { body: LogBody::Chunk { bytes, .. }, .. }, .. } = item {
            seen.extend_from_slice(&bytes);
        }
    }
    kill_process(agent_of(worker), Signal::KILL).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), job.wait()).await.unwrap().unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 2), "{ended:?}");
    assert_eq!(in_memory(worker), [] as [PathBuf; 0], "the secrets of the killed agent are removed");
    assert_eq!(
        in_memory(ended.worker().unwrap()),
        [] as [PathBuf; 0],
        "the secrets of the ended job are removed"
    );
    is_nowhere(&canary, dir.path(), Some(&hodei), &[&first, &second], "with its agent killed").await;
    let (text, _) = output(&job).await;
    assert!(!canary.is_in(&text), "{}", String::from_utf8_lossy(&text));
    assert!(masks(&text) >= 16, "{} masks", masks(&text));
}

fn masks(text: &[u8]) -> usize {
    text.windows(3).filter(|part| part == b"***").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_stored_listed_and_deleted_by_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), 0, &[]);
    let said = |arguments: &[&str]| {
        let output = daemon.hodei(dir.path(), arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
    };
    assert_eq!(
        said(&["secret", "list"]),
        (0, "No secrets: `hodei secret put NAME` stores one from standard input.\n".into())
    );
    assert!(put(&daemon, dir.path(), "db", "hunter22\n").status.success());
    let (code, listed) = said(&["secret", "list", "--output", "json"]);
    assert!(
        code == 0 && listed.starts_with(r#"[{"changed_at":"20"#) && listed.contains(r#""name":"db"}]"#),
        "{listed}"
    );
    let run =
        ["run", "--secret", "db", "--shell", "wc -c < $HODEI_SECRETS_DIR/db; cat $HODEI_SECRETS_DIR/db"];
    assert_eq!(said(&run), (0, "8\n***".into()), "the final newline is not part of the value");
    let run = ["run", "--secret", "db:stdin", "--", "wc", "-c"];
    assert_eq!(said(&run), (0, "17\n".into()));
    let (code, error) = said(&["run", "--secret", "other", "--", "true"]);
    assert!(code == 125 && error.contains("secret `other` does not exist"), "{error}");
    let short = put(&daemon, dir.path(), "pin", "123\n");
    assert_eq!(short.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&short.stderr).contains("`pin` was not stored: its value has 3 bytes"));
    let (code, error) = said(&["secret", "put", "../x"]);
    assert!(code == 125 && error.contains("is not a valid name of a secret"), "{error}");
    assert_eq!(said(&["secret", "delete", "db"]), (0, String::new()));
    assert_eq!(
        said(&["secret", "delete", "db"]),
        (125, "hodei: there is no secret `db`: `hodei secret list` shows the names\n".into())
    );
    let (code, error) = said(&["run", "--secret", "db", "--", "true"]);
    assert!(code == 125 && error.contains("secret `db` does not exist"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_files_are_read_and_a_policy_is_enforced() {
    let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let policy = files.path().join("policy.toml");
    std::fs::write(&policy, "[[rules]]\nsecrets = [\"prod-*\"]\nlabels = { stage = \"prod\" }\n").unwrap();
    let tenant = files.path().join("default");
    std::fs::create_dir(&tenant).unwrap();
    std::fs::write(tenant.join("prod-db"), "hunter22").unwrap();
    std::fs::write(tenant.join("dev-db"), "hunter33").unwrap();
    let place = format!("dir:{}", files.path().display());
    let policy = policy.display().to_string();
    let daemon = Daemon::start(
        dir.path(),
        0,
        &["--secrets", &place, "--secret-policy", &policy, "--worker-secrets", "prod-*,other"],
    );
    let run = |arguments: &[&str]| {
        let output = daemon.hodei(dir.path(), arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["run", "--label", "stage=prod", "--secret", "prod-db", "--", "true"]).0, 0);
    let (code, error) = run(&["run", "--secret", "prod-db", "--", "true"]);
    assert!(code == 125 && error.contains("is not allowed for this job by the policy of secrets"), "{error}");
    let (code, error) = run(&["run", "--secret", "dev-db", "--", "true"]);
    assert!(code == 125 && error.contains("`dev-db` is not for the workers of provider"), "{error}");
    let refused = put(&daemon, dir.path(), "prod-db", "hunter44");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("write them as files below"), "{refused:?}");
}
