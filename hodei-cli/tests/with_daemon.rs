//! `hodei job`, `worker` and `scheduler` with a daemon, by the real programs.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn hodei(arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
    daemon::place(&mut command);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn outcome(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn json(arguments: &[&str]) -> Value {
    let output = hodei(&[arguments, &["--output", "json"]].concat(), "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_submit_prints_an_id_that_a_shell_can_use() {
    let (code, id, errors) = outcome(&hodei(&["job", "submit", "--", "sh", "-c", "echo hi; exit 3"], ""));
    assert_eq!((code, errors), (0, String::new()));
    let id = id.trim_end();
    let waited = outcome(&hodei(&["job", "wait", id], ""));
    assert_eq!(waited, (3, format!("{id} FAILED\n"), String::new()));
    assert_eq!(outcome(&hodei(&["job", "logs", "-f", id], "")), (0, "hi\n".into(), String::new()));

    let (code, told, _) = outcome(&hodei(&["job", "explain", id], ""));
    assert_eq!(code, 0);
    assert!(told.contains("is FAILED") && told.contains("exited with 3"), "{told}");
    assert!(told.contains("least_loaded "), "{told}");
    let told = json(&["job", "explain", id]);
    let (job, placement) = (&told["job"], &told["placements"][0]);
    assert_eq!((&job["state"], &job["exit_code"]), (&"FAILED".into(), &3.into()));
    assert_eq!(placement["worker_id"], job["worker_id"]);
    assert_eq!(placement["score_parts"]["least_loaded"], placement["score"]);
    assert_eq!(told["waiting"], Value::Null);

    let again = hodei(&["job", "retry", id, "--output", "json"], "");
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    let again = again["id"].as_str().unwrap();
    assert_eq!(outcome(&hodei(&["job", "wait", again], "")).0, 3);
    assert_eq!(json(&["job", "get", again])["retry_of"], *id);

    let worker = json(&["worker", "get", job["worker_id"].as_str().unwrap()]);
    assert_eq!(worker["connected"], true);
    assert!(json(&["worker", "list"]).as_array().unwrap().iter().any(|found| found["id"] == worker["id"]));
}

#[test]
fn many_jobs_come_from_lines() {
    let lines: String = (0..300)
        .map(|n| {
            format!("{{\"shell\": \"exit {}\", \"labels\": {{\"of\": \"lines\"}}}}\n", 4 * i32::from(n == 7))
        })
        .collect();
    let (code, ids, errors) = outcome(&hodei(&["job", "submit", "--from", "-", "--wait"], &lines));
    assert_eq!((code, ids.lines().count()), (4, 300));
    assert_eq!(errors, "hodei: 1 of 300 jobs did not succeed\n");
    assert_eq!(json(&["job", "list", "--label", "of=lines", "--limit", "7"]).as_array().unwrap().len(), 7);
    let all = json(&["job", "list", "--label", "of=lines", "--all"]);
    let failed: Vec<_> = all.as_array().unwrap().iter().filter(|job| job["state"] == "FAILED").collect();
    assert_eq!((all.as_array().unwrap().len(), failed.len()), (300, 1));
    assert_eq!(ids.lines().nth(7).unwrap(), failed[0]["id"], "ids come in the order of the lines");
    let table = outcome(&hodei(&["job", "list", "--label", "of=lines", "--all"], "")).1;
    assert_eq!(table.lines().filter(|line| line.starts_with("ID ")).count(), 1, "one header for all pages");
}

#[test]
fn a_bad_line_is_named_and_the_others_are_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.jsonl");
    let lines = "{\"command\": [\"true\"]}\n\nnonsense\n{\"command\": [\"true\"], \"image\": \"alpine\"}\n";
    std::fs::write(&path, lines).unwrap();
    let path = path.to_str().unwrap();
    let (code, ids, errors) = outcome(&hodei(&["job", "submit", "--from", path, "--wait"], ""));
    assert_eq!((code, ids.lines().count()), (125, 1));
    let errors: Vec<_> = errors.lines().collect();
    assert!(errors[0].starts_with(&format!("hodei: {path}:3: expected")), "{errors:?}");
    assert!(
        errors[1].starts_with(&format!("hodei: {path}:4: ")) && errors[1].contains("image"),
        "{errors:?}"
    );
    assert_eq!(errors[2], "hodei: 2 of 3 lines were refused");
    let both = outcome(&hodei(&["job", "submit", "--from", path, "--", "true"], ""));
    assert!(both.0 == 125 && both.2.contains("--from cannot be used with options"), "{both:?}");
    let missing = outcome(&hodei(&["job", "submit", "--from", "/nowhere/jobs"], ""));
    assert!(missing.0 == 125 && missing.2.contains("/nowhere/jobs: No such file"), "{missing:?}");
}

#[test]
fn a_caller_chosen_id_makes_a_submit_repeatable() {
    let line = "{\"id\": \"01a21203-822f-7e9f-9e02-2c07d67e115b\", \"command\": [\"true\"]}\n";
    for found in [
        "",
        "hodei: 1 of 1 jobs existed before, by their keys or ids: run one that has ended again with `hodei job retry ID`\n",
    ] {
        let (code, id, errors) = outcome(&hodei(&["job", "submit", "--from", "-"], line));
        assert_eq!(
            (code, id.trim_end(), errors.as_str()),
            (0, "01a21203-822f-7e9f-9e02-2c07d67e115b", found)
        );
    }
    let other = line.replace("true", "false");
    let (code, _, errors) = outcome(&hodei(&["job", "submit", "--from", "-"], &other));
    assert!(code == 125 && errors.contains("01a21203-822f-7e9f-9e02-2c07d67e115b"), "{errors}");
}

#[test]
fn the_queue_says_why_its_jobs_wait() {
    let busy =
        "{\"command\": [\"sleep\", \"60\"], \"concurrency\": {\"key\": \"one at a time\", \"limit\": 1}}\n";
    let (code, ids, _) = outcome(&hodei(&["job", "submit", "--from", "-"], &busy.repeat(3)));
    let ids: Vec<_> = ids.lines().collect();
    assert_eq!((code, ids.len()), (0, 3));
    let why = "its concurrency key is at its limit";
    let told = (0..200).find_map(|_| {
        let told = ids.iter().map(|id| outcome(&hodei(&["job", "explain", id], "")).1).collect::<Vec<_>>();
        let waiting = told.iter().filter(|told| told.contains(why)).count();
        (waiting == 2).then_some(told)
    });
    let told = told.expect("two of the three jobs wait");
    assert!(told.iter().any(|told| told.contains("(1 more wait for the same")), "{told:?}");
    let status = json(&["scheduler", "status"]);
    let class = status["waiting"].as_array().unwrap().iter().find(|class| class["why"] == why).unwrap();
    assert_eq!(class["jobs"], 2);
    assert!(outcome(&hodei(&["scheduler", "status"], "")).1.contains(why));
    for id in ids {
        assert_eq!(outcome(&hodei(&["job", "cancel", id], "")).0, 0);
    }
}

#[test]
fn completions_are_for_a_shell() {
    let (code, script, _) = outcome(&hodei(&["completions", "bash"], ""));
    assert!(code == 0 && script.contains("complete -F _hodei"), "{code}");
}

#[test]
fn a_line_that_is_too_long_is_refused_as_one_line() {
    let long = format!("{{\"command\": [\"{}\"]}}\n", "x".repeat(17 << 20));
    let lines = format!("\u{feff}{{\"command\": [\"true\"]}}\n{long}{{}}\n{{\"shell\": \"exit 0\"}}\n");
    let (code, ids, errors) = outcome(&hodei(&["job", "submit", "--from", "-"], &lines));
    assert_eq!((code, ids.lines().count()), (125, 2), "{errors}");
    let errors: Vec<_> = errors.lines().collect();
    assert_eq!(errors[0], "hodei: standard input:2: the line is longer than 16777216 bytes");
    assert!(errors[1].starts_with("hodei: standard input:3: it has nothing to run"), "{errors:?}");
    assert_eq!(
        outcome(&hodei(&["job", "submit", "--from", "-"], "\n")).2,
        "hodei: standard input has no jobs\n"
    );
}

#[test]
fn an_explanation_is_not_shortened() {
    let program = format!("/nowhere/{}", "long/".repeat(30));
    let id = outcome(&hodei(&["job", "submit", "--wait", "--", &program], "")).1;
    let id = id.trim_end();
    let table = outcome(&hodei(&["job", "explain", id], "")).1;
    assert_eq!(table.matches(&program).count(), 2, "in its state and in its attempt: {table}");
    let told = json(&["job", "explain", id]);
    let placement = &told["placements"][0];
    assert_eq!((&placement["result"], &placement["cause"]), (&"FAILED".into(), &told["job"]["cause"]));
    assert!(placement["message"].as_str().unwrap().contains(&program), "{placement}");

    let line = "{\"command\": [\"true\"], \"not_before\": \"2199-01-01T00:00:00Z\"}\n";
    let later = outcome(&hodei(&["job", "submit", "--from", "-"], line)).1;
    let told = json(&["job", "explain", later.trim_end()]);
    assert_eq!(told["waiting"]["until"], "2199-01-01T00:00:00.000000Z", "{told}");
    assert_eq!(outcome(&hodei(&["job", "cancel", later.trim_end()], "")).0, 0);
}

#[test]
fn a_cancelled_running_job_shows_the_request() {
    let stubborn = "trap '' TERM; echo ready; sleep 60";
    let id = outcome(&hodei(&["job", "submit", "--kill-grace", "1s", "--shell", stubborn], "")).1;
    let id = id.trim_end();
    let ready = (0..200).any(|_| outcome(&hodei(&["job", "logs", id], "")).1 == "ready\n");
    assert!(ready);
    assert_eq!(json(&["job", "get", id])["cancel_requested"], false);
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    let (code, told, errors) = outcome(&hodei(&["job", "cancel", unknown, id], ""));
    assert_eq!((code, errors), (125, format!("hodei: there is no job {unknown}\n")));
    assert_eq!(
        told,
        format!("{id} RUNNING, asked to stop\n"),
        "an unknown id does not prevent the other cancel"
    );
    assert_eq!(json(&["job", "get", id])["cancel_requested"], true);
    assert_eq!(outcome(&hodei(&["job", "wait", id], "")).0, 130);
}

#[test]
fn the_shown_spec_can_be_submitted_again() {
    let first =
        outcome(&hodei(&["job", "submit", "--env", "A=b", "--timeout", "1.5s", "--shell", "exit 6"], "")).1;
    let spec = json(&["job", "get", first.trim_end()])["spec"].to_string();
    let ended = hodei(&["job", "submit", "--from", "-", "--wait", "--output", "json"], &spec);
    let job: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&job["state"], &job["exit_code"]), (&"FAILED".into(), &6.into()));
    assert_eq!(json(&["job", "get", job["id"].as_str().unwrap()])["spec"].to_string(), spec);
}

#[test]
fn output_is_available_as_json() {
    let id = outcome(&hodei(&["job", "submit", "--wait", "--shell", "printf 'a\\377'; echo b >&2"], "")).1;
    let pieces = outcome(&hodei(&["job", "logs", id.trim_end(), "--output", "json"], "")).1;
    let mut pieces: Vec<Value> = pieces.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    pieces.sort_by_key(|piece| piece["stream"].to_string());
    let brief: Vec<_> =
        pieces.iter().map(|piece| (&piece["stream"], &piece["data"], &piece["attempt"])).collect();
    assert_eq!(
        brief,
        [(&"stderr".into(), &"Ygo=".into(), &1.into()), (&"stdout".into(), &"Yf8=".into(), &1.into())]
    );
}

#[test]
fn a_missing_or_wrong_token_names_its_option() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |token: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
        daemon::place(&mut command);
        command.args(["job", "list"]).env_remove("HODEI_TOKEN_FILE").env("XDG_STATE_HOME", dir.path());
        let output = command.env("HODEI_TOKEN", token.unwrap_or_default()).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        text(&output.stderr)
    };
    let missing = refused(None);
    assert!(missing.contains("requires its token") && missing.contains("--token-file"), "{missing}");
    let wrong = refused(Some("wrong"));
    assert!(wrong.contains("HODEI_TOKEN: the token is not known"), "{wrong}");
}

/// Returns the first line of a `job watch` that contains `until`.
fn watched(arguments: &[&str], until: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
    daemon::place(&mut command);
    command.args(["job", "watch"]).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains(until)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    line
}

#[test]
fn a_watch_of_all_jobs_goes_on_from_a_cursor() {
    let (_, id, _) = outcome(&hodei(&["job", "submit", "--", "sh", "-c", "exit 3"], ""));
    let id = id.trim_end();
    outcome(&hodei(&["job", "wait", id], ""));
    let line = watched(&["--from", "oldest", "--ended"], id);
    assert!(line.contains("FAILED") && line.ends_with("exit 3"), "{line}");
    // Only the last job of a batch has the cursor.
    let line = watched(&["--from", "oldest", "--ended", "--output", "json"], "cursor");
    let told: Value = serde_json::from_str(&line).unwrap();
    assert!(
        ["FAILED", "SUCCEEDED", "CANCELLED", "TIMED_OUT"].contains(&told["job"]["state"].as_str().unwrap())
    );
    let (_, next, _) = outcome(&hodei(&["job", "submit", "--", "true"], ""));
    watched(&["--from", told["cursor"].as_str().unwrap()], next.trim_end());
    let wrong = outcome(&hodei(&["job", "watch", "--from", "yesterday"], ""));
    assert!(wrong.0 == 125 && wrong.2.contains("cursor"), "{wrong:?}");
}

#[test]
fn a_watch_ends_when_its_output_is_closed() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
    daemon::place(&mut command);
    command.args(["job", "watch", "--from", "oldest"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let start = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed().as_secs() < 10, "the watch did not end");
        // Gives the watch a line to print.
        hodei(&["job", "submit", "--", "true"], "");
    }
}

#[test]
fn limits_do_not_change_the_name_a_program_is_called_by() {
    for limits in [&[][..], &["--pids", "20"]] {
        let line = [&["run"], limits, &["--", "sh", "-c", "echo $0"]].concat();
        assert_eq!(outcome(&hodei(&line, "")), (0, "sh\n".into(), String::new()), "{limits:?}");
    }
}

#[test]
fn artifacts_go_through_a_daemon() {
    let large = "head -c 5000000 /dev/zero > large; echo done > small";
    let (code, id, errors) = outcome(&hodei(
        &["job", "submit", "--artifact", "large", "--artifact", "small", "--shell", large],
        "",
    ));
    assert_eq!((code, errors), (0, String::new()));
    let id = id.trim_end();
    assert_eq!(outcome(&hodei(&["job", "wait", id], "")).0, 0);
    let listed = json(&["job", "artifacts", id, "list"]);
    assert_eq!((&listed[0]["name"], &listed[0]["bytes"]), (&"large".into(), &5_000_000.into()));
    assert_eq!(json(&["job", "get", id])["artifacts"], listed);
    assert_eq!(json(&["job", "get", id])["spec"]["outputs"], serde_json::json!(["large", "small"]));
    let got = hodei(&["job", "artifacts", id, "get", "large", "--to", "-"], "");
    assert!(got.stdout.len() == 5_000_000 && got.status.success());
    let input = format!("{id}/small");
    let used = outcome(&hodei(&["run", "--input", &input, "--", "cat", "small"], ""));
    assert_eq!(used, (0, "done\n".into(), String::new()));
}

#[test]
fn a_server_overrides_a_data_directory_of_the_environment_and_says_so() {
    let with = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
        daemon::place(&mut command);
        command.env("HODEI_DATA_DIR", "/nowhere").args(arguments).stdin(Stdio::null());
        outcome(&command.output().unwrap())
    };
    let word = "hodei: HODEI_DATA_DIR is ignored, since --server or HODEI_SERVER names a daemon\n";
    let (code, id, said) = with(&["job", "submit", "--", "echo", "there"]);
    assert_eq!((code, said.as_str()), (0, word));
    let id = id.trim_end();
    assert_eq!(with(&["job", "wait", id]), (0, format!("{id} SUCCEEDED\n"), word.into()));
    assert_eq!(with(&["job", "logs", "-f", id]), (0, "there\n".into(), word.into()));
    assert_eq!(with(&["run", "--", "echo", "here"]), (0, "here\n".into(), word.into()));
    assert_eq!(with(&["secret", "list"]).2, word);
    // An option overrides the environment without a message.
    let (code, _, said) = with(&["job", "list", "--data-dir", "/elsewhere"]);
    assert_eq!(
        (code, said.as_str()),
        (
            125,
            "hodei: /elsewhere is not a data directory of Hodei, since it has no file hodei.db: name another\n"
        )
    );
    assert_eq!(with(&["worker", "list"]).2, "", "`worker` takes no data directory");
}
