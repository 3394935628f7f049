//! `hodei run --data-dir` and `hodei job` with a data directory, by the real program.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const HODEI: &str = env!("CARGO_BIN_EXE_hodei");

fn hodei(dir: &Path, words: &[&str], arguments: &[&str]) -> Output {
    let mut command = Command::new(HODEI);
    command.args(words).arg("--data-dir").arg(dir).args(arguments).stdin(Stdio::null());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn jobs(dir: &Path, arguments: &[&str]) -> Vec<serde_json::Value> {
    let output = hodei(dir, &["job", "list"], &[&["--output", "json"], arguments].concat());
    assert_eq!((code(&output), text(&output.stderr)), (0, String::new()));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn id(job: &serde_json::Value) -> String {
    job["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_job_is_kept_with_its_output_and_its_history() {
    let dir = tempfile::tempdir().unwrap();
    let line = "echo out; echo err >&2; exit 7";
    let ran = hodei(dir.path(), &["run"], &["--label", "a=b", "--name", "kept", "--shell", line]);
    assert_eq!((code(&ran), text(&ran.stdout), text(&ran.stderr)), (7, "out\n".into(), "err\n".into()));
    hodei(dir.path(), &["run"], &["--", "true"]);
    assert_eq!(jobs(dir.path(), &[]).len(), 2);
    let found = jobs(dir.path(), &["--label", "a=b", "--state", "failed"]);
    assert_eq!(found.len(), 1);
    let kept = &found[0];
    assert_eq!(
        (&kept["name"], &kept["state"], &kept["exit_code"]),
        (&"kept".into(), &"FAILED".into(), &7.into())
    );
    assert_eq!(jobs(dir.path(), &["--limit", "1"])[0]["name"], "true", "newest first");

    let got = hodei(dir.path(), &["job", "get", &id(kept)], &["--output", "json"]);
    let mut got: serde_json::Value = serde_json::from_slice(&got.stdout).unwrap();
    assert_eq!(got["spec"]["shell"], line);
    got.as_object_mut().unwrap().remove("spec");
    assert_eq!(got, *kept);
    let logs = hodei(dir.path(), &["job", "logs", &id(kept)], &[]);
    assert_eq!((code(&logs), text(&logs.stdout), text(&logs.stderr)), (0, "out\n".into(), "err\n".into()));
    let events = hodei(dir.path(), &["job", "events", &id(kept)], &["--output", "json"]);
    let events: Vec<serde_json::Value> = serde_json::from_slice(&events.stdout).unwrap();
    let names: Vec<_> = events.iter().map(|event| event["event"]["type"].as_str().unwrap()).collect();
    assert_eq!(names, ["JobCreated", "JobQueued", "JobAssigned", "JobStarted", "JobFailed"]);
    for words in [&["job", "list"][..], &["job", "get", &id(kept)], &["job", "events", &id(kept)]] {
        let table = hodei(dir.path(), words, &[]);
        assert!(code(&table) == 0 && !table.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn a_kept_job_runs_in_the_directory_of_its_submit() {
    let (dir, base) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base = base.path().canonicalize().unwrap();
    let (a, b) = (base.join("a"), base.join("b"));
    [&a, &b].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let within = |at: &Path, words: &[&str], arguments: &[&str]| {
        let mut command = Command::new(HODEI);
        command.args(words).arg("--data-dir").arg(dir.path()).args(arguments).stdin(Stdio::null());
        command.current_dir(at);
        command
    };
    let line = "pwd; [ $HODEI_ATTEMPT = 2 ] || sleep 60";
    let mut killed = within(&a, &["run"], &["--shell", line]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 1];
    std::io::Read::read_exact(killed.stdout.as_mut().unwrap(), &mut said).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let submitted = within(&a, &["job", "submit"], &["--", "pwd"]).output().unwrap();
    assert_eq!(code(&submitted), 0, "{}", text(&submitted.stderr));
    let file = base.join("jobs");
    std::fs::write(&file, "{\"command\": [\"pwd\"]}").unwrap();
    let from = within(&a, &["job", "submit"], &["--from", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(code(&from), 0, "{}", text(&from.stderr));
    let waited = within(&b, &["job", "wait"], &[]).output().unwrap();
    assert_eq!(code(&waited), 0, "{}", text(&waited.stderr));
    for job in jobs(dir.path(), &[]) {
        let logs = text(&hodei(dir.path(), &["job", "logs", &id(&job)], &[]).stdout);
        assert_eq!(logs.lines().next_back(), a.to_str(), "{job}");
    }
}

#[test]
fn a_retry_runs_with_the_next_wait_which_exits_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    hodei(dir.path(), &["run"], &["--shell", "exit 3"]);
    let first = id(&jobs(dir.path(), &[])[0]);
    let retried = hodei(dir.path(), &["job", "retry", &first], &[]);
    let second = text(&retried.stdout).trim().to_owned();
    let pending = &jobs(dir.path(), &["--state", "PENDING"])[0];
    assert_eq!((id(pending), &pending["retry_of"]), (second.clone(), &first.into()));
    let waited = hodei(dir.path(), &["job", "wait"], &[]);
    assert_eq!((code(&waited), text(&waited.stdout)), (3, format!("{second} FAILED\n")));
    let nothing = hodei(dir.path(), &["job", "wait"], &[]);
    assert_eq!((code(&nothing), text(&nothing.stdout)), (0, String::new()));
}

#[test]
fn a_job_of_a_killed_run_goes_on_and_a_second_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let up = dir.path().join("up");
    let line = format!("[ $HODEI_ATTEMPT -gt 1 ] || {{ touch {}; sleep 600; }}", up.display());
    let mut run = Command::new(HODEI)
        .args(["run", "--data-dir"])
        .arg(dir.path())
        .args(["--shell", &line])
        .spawn()
        .unwrap();
    // The running job shows that its run holds the directory.
    let start = Instant::now();
    while !up.exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "the job did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = hodei(dir.path(), &["run"], &["--", "true"]);
    assert_eq!(code(&second), 125);
    let holder = format!("is in use by process {}", run.id());
    assert!(text(&second.stderr).contains(&holder), "{}", text(&second.stderr));
    run.kill().unwrap();
    run.wait().unwrap();
    let waited = hodei(dir.path(), &["job", "wait"], &[]);
    assert_eq!(code(&waited), 0, "{}", text(&waited.stderr));
    let job = jobs(dir.path(), &["--state", "SUCCEEDED"]).into_iter().find(|job| job["attempt"] == 2);
    assert!(job.is_some(), "it ran again: {:?}", jobs(dir.path(), &[]));
}

#[test]
fn bad_places_and_ids_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let said = |output: Output, word: &str| {
        let stderr = text(&output.stderr);
        assert!(code(&output) == 125 && stderr.contains(word), "{}: {stderr}", code(&output));
    };
    let missing = dir.path().join("missing");
    said(hodei(&missing, &["job", "list"], &[]), "is not a data directory");
    assert!(!missing.exists(), "a list must not create the directory");
    hodei(dir.path(), &["run"], &["--", "true"]);
    said(hodei(dir.path(), &["job", "get", "x"], &[]), "is not a JobId");
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    for command in ["get", "logs", "retry", "events", "wait"] {
        said(hodei(dir.path(), &["job", command, unknown], &[]), &format!("there is no job {unknown}"));
    }
    said(hodei(dir.path(), &["job", "list"], &["--state", "DONE"]), "use one of CREATED");
    said(hodei(Path::new("/dev/null"), &["run"], &["--", "true"]), "cannot be used");
    let server = ["--server", "http://127.0.0.1:1"];
    for command in [&["run"][..], &["job", "list"]] {
        let output = hodei(dir.path(), &[&server, command].concat(), &[]);
        said(output, "--server cannot be used with --data-dir");
    }
}

#[test]
fn a_server_that_is_not_a_daemon_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let mut command = Command::new(HODEI);
    let output = command.args(["--server", &url, "job", "list"]).output().unwrap();
    answers.join().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(code(&output), 125);
    assert!(stderr.contains(&url) && stderr.contains("does not answer as a daemon"), "{stderr}");
}

/// Runs as another user if possible, since root ignores file modes.
#[test]
fn a_directory_without_rights_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("hodei");
    std::fs::copy(HODEI, &program).unwrap();
    let locked = dir.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
    let other = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let may_change =
        Command::new("setpriv").args(&other[1..]).arg("true").status().is_ok_and(|s| s.success());
    let mut command = if may_change { Command::new(other[0]) } else { Command::new(&program) };
    if may_change {
        command.args(&other[1..]).arg(&program);
    }
    let output = command.args(["run", "--data-dir"]).arg(&locked).args(["--", "true"]).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(
        code(&output) == 125 && stderr.contains("Permission denied") && stderr.contains("locked"),
        "{stderr}"
    );
}

/// Runs a command as a user who cannot make control groups; `None` if this test cannot become that user.
fn as_another(dir: &Path, arguments: &[&str]) -> Option<Output> {
    let program = dir.join("hodei");
    std::fs::copy(HODEI, &program).unwrap();
    let other = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut command = Command::new("setpriv");
    command.args(other).arg(&program).args(arguments).stdin(Stdio::null()).current_dir(dir);
    let output = command.env("HOME", dir).output().ok()?;
    if text(&output.stderr).starts_with("setpriv:") {
        eprintln!("skipped: this test cannot become another user here");
        return None;
    }
    Some(output)
}

#[test]
fn a_job_never_runs_elsewhere_than_in_its_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let locked = dir.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o700)).unwrap();
    let locked = locked.display().to_string();
    let Some(output) = as_another(dir.path(), &["run", "--cwd", &locked, "--", "pwd"]) else { return };
    let (said, wrote) = (text(&output.stderr), text(&output.stdout));
    assert!(code(&output) != 0 && wrote.is_empty(), "{output:?}");
    assert!(said.contains(&locked) && said.contains("ermission"), "{said}");
}

#[test]
fn limits_that_are_not_enforced_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let jobs = dir.path().join("jobs").display().to_string();
    let warned =
        |output: &Output| text(&output.stderr).contains("the limits of the job will not be enforced");
    for limit in [["--memory", "64m"], ["--cpus", "1"], ["--pids", "50"]] {
        let run = [&["run"], &limit[..], &["--", "echo", "x"]].concat();
        let Some(ran) = as_another(dir.path(), &run) else { return };
        assert!(warned(&ran) && (code(&ran), text(&ran.stdout)) == (0, "x\n".into()), "{ran:?}");
    }
    let Some(plain) = as_another(dir.path(), &["run", "--", "true"]) else { return };
    assert_eq!(text(&plain.stderr), "", "no warning for a job without limits");
    let Some(made) = as_another(dir.path(), &["run", "--data-dir", &jobs, "--", "true"]) else { return };
    assert_eq!(code(&made), 0, "{made:?}");
    let submit = ["job", "submit", "--data-dir", &jobs, "--memory", "64m", "--", "true"];
    let Some(submitted) = as_another(dir.path(), &submit) else { return };
    assert!(code(&submitted) == 0 && warned(&submitted), "{submitted:?}");
    let of_job = text(&submitted.stdout);
    let get = ["job", "get", of_job.trim(), "--data-dir", &jobs];
    let Some(waiting) = as_another(dir.path(), &get) else { return };
    assert!(text(&waiting.stdout).contains("will not be held"), "{waiting:?}");
    let Some(done) = as_another(dir.path(), &["job", "wait", of_job.trim(), "--data-dir", &jobs]) else {
        return;
    };
    assert_eq!(code(&done), 0, "{done:?}");
    let Some(got) = as_another(dir.path(), &get) else { return };
    assert!(text(&got.stdout).contains("not held on worker"), "{got:?}");
    let lines = dir.path().join("lines");
    std::fs::write(&lines, "{\"command\": [\"true\"], \"resources\": {\"memory_bytes\": 67108864}}\n")
        .unwrap();
    let from = ["job", "submit", "--data-dir", &jobs, "--from", lines.to_str().unwrap()];
    let Some(many) = as_another(dir.path(), &from) else { return };
    assert!(code(&many) == 0 && warned(&many), "{many:?}");
}

#[test]
fn jobs_that_cannot_run_are_refused_at_submit() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(131_000);
    let lines = dir.path().join("lines");
    let submit = |line: String| {
        std::fs::write(&lines, line).unwrap();
        let from = ["--from", lines.to_str().unwrap()];
        text(&hodei(dir.path(), &["job", "submit"], &from).stderr)
    };
    for (arguments, words) in [
        (&["--memory", "64", "--", "true"][..], &["resources.memory_bytes", "64m"][..]),
        (&["--cpus", "0.001", "--", "true"], &["resources.cpu_millis", "10"]),
        (&["--pids", "0", "--", "true"], &["pids"]),
        (&["--timeout", "0s", "--", "true"], &["timeout"]),
    ] {
        let said = text(&hodei(dir.path(), &["run"], arguments).stderr);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    hodei(dir.path(), &["run"], &["--", "true"]);
    let command =
        |more: usize| serde_json::json!({ "command": ["echo", format!("{long}{}", "x".repeat(more))] });
    assert_eq!(submit(command(71).to_string()), "", "131,071 bytes are accepted");
    for (line, words) in [
        (command(72).to_string(), &["lines:1", "command", "131072", "131071"][..]),
        (serde_json::json!({ "shell": format!("{long}{long}") }).to_string(), &["shell", "script"]),
        (
            serde_json::json!({ "command": ["true"], "env": { "A": format!("{long}{long}") } }).to_string(),
            &["env", "131071"],
        ),
        (r#"{"command": ["true"], "resources": {"memory_bytes": 64}}"#.into(), &["memory_bytes", "1048576"]),
        (r#"{"command": ["true"], "env": {"A=B": ""}}"#.into(), &["env", "`=`"]),
        (r#"{"command": ["a\u0000b"]}"#.into(), &["command", "NUL"]),
        (
            r#"{"id": "00000000-0000-0000-0000-000000000000", "command": ["true"]}"#.into(),
            &["id", "version 7"],
        ),
        (
            r#"{"id": "9b2c3d4e-5f60-4718-92a3-b4c5d6e7f809", "command": ["true"]}"#.into(),
            &["id", "version 7"],
        ),
        (
            r#"{"id": "0fffffff-ffff-7fff-8fff-ffffffffffff", "command": ["true"]}"#.into(),
            &["id", "more than a day ahead"],
        ),
    ] {
        let said = submit(line);
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
    assert_eq!(jobs(dir.path(), &[]).len(), 2);
}

#[test]
fn a_name_cannot_move_the_cursor() {
    let dir = tempfile::tempdir().unwrap();
    hodei(dir.path(), &["run"], &["--name", "a\nb\u{1b}[31m\u{202e}", "--", "true"]);
    let listed = text(&hodei(dir.path(), &["job", "list"], &[]).stdout);
    assert!(
        listed.lines().count() == 2 && !listed.contains('\u{1b}') && !listed.contains('\u{202e}'),
        "{listed:?}"
    );
}

#[test]
fn unwritable_output_exits_with_125() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for arguments in [&["run", "--", "echo", "x"][..], &["run", "--output", "json", "--", "true"]] {
        let output = Command::new(HODEI).args(arguments).stdout(full()).output().unwrap();
        assert!(code(&output) == 125 && text(&output.stderr).contains("No space left"), "{arguments:?}");
    }
    let line = "echo a; echo b >&2";
    let output = Command::new(HODEI).args(["run", "--shell", line]).stderr(full()).output().unwrap();
    assert_eq!(
        (code(&output), text(&output.stdout)),
        (0, "a\n".into()),
        "the output is not lost with the errors"
    );
}

#[test]
fn a_limit_of_file_sizes_fails_the_run_without_a_signal() {
    let out = tempfile::tempfile().unwrap();
    let arguments = ["--fsize=0", HODEI, "run", "--", "echo", "x"];
    let output = Command::new("prlimit").args(arguments).stdout(out).output().unwrap();
    assert!(code(&output) == 125 && text(&output.stderr).contains("File too large"), "{output:?}");
}

#[test]
fn a_silent_job_ends_when_its_reader_goes_away() {
    let start = Instant::now();
    let mut run = Command::new(HODEI)
        .args(["run", "--shell", "echo a; sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = run.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut [0; 2]).unwrap();
    drop(out);
    assert_eq!(run.wait().unwrap().code(), Some(141));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_job_that_takes_too_much_memory_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let eater = ["python3", "-c", "x = bytearray(256 << 20); print(len(x))"];
    let limits = ["--memory", "64m", "--cpus", "1.5", "--pids", "20", "--"];
    let ran = hodei(dir.path(), &["run"], &[&limits[..], &eater].concat());
    let kept = &jobs(dir.path(), &[])[0];
    let got = hodei(dir.path(), &["job", "get", &id(kept)], &["--output", "json"]);
    let got: serde_json::Value = serde_json::from_slice(&got.stdout).unwrap();
    let asked = serde_json::json!({"memory_bytes": 64 << 20, "cpu_millis": 1500, "pids": 20});
    for (field, value) in asked.as_object().unwrap() {
        assert_eq!(&got["spec"]["resources"][field], value, "{field}");
    }
    assert!(got["usage"]["peak_memory_bytes"].as_u64().unwrap() > 1 << 20, "{got}");
    // Without control groups, a limit only says what a worker must have.
    if code(&ran) != 0 {
        assert_eq!((code(&ran), &got["cause"]), (137, &"out_of_memory".into()), "{got}");
        assert!(text(&ran.stderr).contains("out of memory"), "{}", text(&ran.stderr));
    }
    for (option, value, told) in [
        ("--memory", "12x", "not a valid size"),
        ("--memory", "0", "not a valid size"),
        ("--memory", "512м", "not a valid size"),
        ("--memory", "b", "not a valid size"),
        ("--memory", "99999999999999t", "not a valid size"),
        ("--cpus", "0", "too few"),
        ("--cpus", "many", "not a number"),
        ("--pids", "0", "0"),
    ] {
        let refused = hodei(dir.path(), &["run"], &[option, value, "--", "true"]);
        let message = text(&refused.stderr);
        assert!(code(&refused) == 125 && message.contains(told) && message.contains(option), "{message}");
    }
}

#[test]
fn artifacts_go_to_a_file_and_to_the_next_job() {
    let (dir, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ran =
        hodei(dir.path(), &["run"], &["--artifact", "out", "--shell", "mkdir out; echo hello > out/a; pwd"]);
    let workspace = text(&ran.stdout);
    assert!(code(&ran) == 0 && !Path::new(workspace.trim()).exists(), "{workspace} is removed with the job");
    let job = &jobs(dir.path(), &[])[0];
    let job = id(job);
    let artifacts = |arguments: &[&str]| {
        let mut command = Command::new(HODEI);
        command.args(["job", "artifacts", &job]).args(arguments).arg("--data-dir").arg(dir.path());
        command.current_dir(here.path()).output().unwrap()
    };
    let listed = text(&artifacts(&["list"]).stdout);
    let digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    assert_eq!(listed, format!("NAME   BYTES  SHA256\nout/a  6      {digest}\n"));
    let json: serde_json::Value =
        serde_json::from_slice(&artifacts(&["list", "--output", "json"]).stdout).unwrap();
    let artifact =
        serde_json::json!({"name": "out/a", "bytes": 6, "sha256": digest, "mode": "0644", "is_link": false});
    assert_eq!(json, serde_json::json!([artifact]));
    assert_eq!(text(&artifacts(&["get", "out/a", "--to", "-"]).stdout), "hello\n");
    assert_eq!(code(&artifacts(&["get", "out/a"])), 0);
    assert_eq!(std::fs::read(here.path().join("a")).unwrap(), b"hello\n");
    let again = artifacts(&["get", "out/a"]);
    assert_eq!(
        (code(&again), text(&again.stderr)),
        (125, "hodei: a already exists: overwrite it with --force, or name another file with --to\n".into())
    );
    std::fs::write(here.path().join("a"), "old").unwrap();
    assert_eq!(code(&artifacts(&["get", "out/a", "--force"])), 0);
    assert_eq!(std::fs::read(here.path().join("a")).unwrap(), b"hello\n");
    let missing = artifacts(&["get", "out/b"]);
    assert_eq!(
        (code(&missing), text(&missing.stderr)),
        (1, format!("hodei: job {job} has no artifact `out/b`\n"))
    );
    assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 1, "no partial file remains");

    let input = format!("{job}/out/a:in");
    let next = hodei(dir.path(), &["run"], &["--input", &input, "--", "cat", "in"]);
    assert_eq!((code(&next), text(&next.stdout)), (0, "hello\n".into()));
    let failed = hodei(dir.path(), &["run"], &["--artifact", "missing", "--", "true"]);
    assert_eq!(
        (code(&failed), text(&failed.stderr)),
        (1, "hodei: its artifacts: the job left no `missing`\n".into())
    );
    let nothing = hodei(dir.path(), &["run"], &["--input", &format!("{job}/x"), "--", "true"]);
    assert_eq!(
        text(&nothing.stderr),
        format!("hodei: the input {job}/x does not exist: the job ended without it\n")
    );
    let empty = id(&jobs(dir.path(), &[])[0]);
    let listed = hodei(dir.path(), &["job", "artifacts", &empty, "list"], &[]);
    assert_eq!(text(&listed.stdout), "No artifacts: `hodei run --artifact PATH` keeps a file.\n");
    let nowhere = Command::new(HODEI).args(["run", "--artifact", "out", "--", "true"]).output().unwrap();
    assert!(code(&nowhere) == 125 && text(&nowhere.stderr).contains("add --data-dir DIR"), "{nowhere:?}");
}

#[test]
fn a_full_standard_error_changes_no_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut hodei = Command::new(HODEI);
        hodei.args(arguments).args(["--data-dir", dir.path().to_str().unwrap()]);
        hodei.stderr(full).status().unwrap().code()
    };
    hodei(dir.path(), &["run"], &["--", "true"]);
    let bad = dir.path().join("bad.jsonl");
    std::fs::write(&bad, "{}\n").unwrap();
    assert_eq!(run(&["job", "submit", "--from", bad.to_str().unwrap()]), Some(125));
    assert_eq!(run(&["job", "wait", "0197f3c6-7d2b-7000-8000-000000000001"]), Some(125));
    let bad = ["job", "submit", "--wait", "--shell", "exit 3"];
    assert_eq!(run(&bad), Some(3));
}

#[test]
fn an_artifact_replaces_no_link_and_no_device() {
    let dir = tempfile::tempdir().unwrap();
    hodei(dir.path(), &["run"], &["--artifact", "out", "--shell", "echo hello > out"]);
    let (job, link) = (id(&jobs(dir.path(), &[])[0]), dir.path().join("link"));
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    for to in ["/dev/null", link.to_str().unwrap(), "/dev"] {
        let got = hodei(dir.path(), &["job", "artifacts", &job, "get", "out", "--force", "--to", to], &[]);
        assert!(code(&got) == 125 && text(&got.stderr).contains("is not a regular file"), "{got:?}");
    }
    assert!(link.is_symlink());
}

#[test]
fn a_repeated_key_names_the_existing_job_and_how_to_run_it_again() {
    let dir = tempfile::tempdir().unwrap();
    hodei(dir.path(), &["run"], &["--", "true"]);
    let submit = |more: &[&str]| {
        hodei(dir.path(), &["job", "submit"], &[more, &["--idempotency-key", "k", "--", "true"]].concat())
    };
    let json = |output: &Output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    let first = submit(&["--output", "json"]);
    assert_eq!((text(&first.stderr), &json(&first)["outcome"]), (String::new(), &"created".into()));
    let second = submit(&["--output", "json"]);
    let (found, said) = (id(&json(&first)), text(&second.stderr));
    assert_eq!((&id(&json(&second)), &json(&second)["outcome"]), (&found, &"found".into()));
    assert!(said.contains(&found) && said.contains("PENDING") && said.contains("hodei job retry"), "{said}");
    let third = submit(&[]);
    assert_eq!(text(&third.stdout).trim(), found, "standard output has only the id");
    // `hodei run` finds the job too, and exits with its code.
    let ran = hodei(dir.path(), &["run"], &["--output", "json", "--idempotency-key", "k", "--", "true"]);
    assert_eq!((code(&ran), &json(&ran)["outcome"]), (0, &"found".into()), "{}", text(&ran.stderr));
    let lines =
        format!("{}\n{}\n", r#"{"command": ["true"], "idempotency_key": "k"}"#, r#"{"command": ["true"]}"#);
    let file = dir.path().join("jobs.jsonl");
    std::fs::write(&file, lines).unwrap();
    let many = hodei(dir.path(), &["job", "submit"], &["--from", file.to_str().unwrap()]);
    assert!(text(&many.stderr).contains("1 of 2 jobs existed before"), "{}", text(&many.stderr));
    let again = hodei(dir.path(), &["job", "retry", &found], &[]);
    assert!(code(&again) == 0 && text(&again.stdout).trim() != found);
}

#[test]
fn a_job_that_has_not_ended_is_not_repeated_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    hodei(dir.path(), &["run"], &["--", "true"]);
    let job = text(&hodei(dir.path(), &["job", "submit"], &["--", "true"]).stdout).trim().to_owned();
    let refused = hodei(dir.path(), &["job", "retry", &job], &[]);
    let said = text(&refused.stderr);
    assert!(code(&refused) == 125 && said.contains("PENDING") && said.contains("--force"), "{said}");
    let forced = hodei(dir.path(), &["job", "retry", "--force", &job], &[]);
    assert!(code(&forced) == 0 && text(&forced.stdout).trim() != job);
    assert_eq!(jobs(dir.path(), &["--state", "PENDING"]).len(), 2);
    assert_eq!(code(&hodei(dir.path(), &["job", "wait"], &[])), 0);
    assert_eq!(code(&hodei(dir.path(), &["job", "retry", &job], &[])), 0, "it has ended");
}
