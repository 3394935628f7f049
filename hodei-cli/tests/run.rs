//! `hodei run` by the real program: its streams and its exit codes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test over real programs and real time")]

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[path = "support/daemon.rs"]
mod daemon;

/// Whether this file is compiled as a part of `run_with_daemon.rs`.
fn is_with_daemon() -> bool {
    module_path!().ends_with("::through_daemon")
}

fn hodei(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hodei"));
    command.arg("run").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if is_with_daemon() {
        daemon::place(&mut command);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    hodei(arguments).output().unwrap()
}

fn with_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = hodei(arguments).stdin(Stdio::piped()).spawn().unwrap();
    // The program may refuse the job before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed by {:?}", output.status.signal()))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn echo_hello() {
    let output = run(&["--", "echo", "hello"]);
    assert_eq!((code(&output), &output.stdout[..], &stderr(&output)[..]), (0, &b"hello\n"[..], ""));
}

#[test]
fn the_streams_stay_apart_and_the_exit_code_comes_back() {
    let output = run(&["--", "sh", "-c", "echo a; echo b >&2; exit 7"]);
    assert_eq!((code(&output), &output.stdout[..], &output.stderr[..]), (7, &b"a\n"[..], &b"b\n"[..]));
}

#[test]
fn a_timeout_is_124_within_two_seconds() {
    let start = Instant::now();
    let output = run(&["--timeout", "500ms", "--", "sleep", "60"]);
    assert_eq!(code(&output), 124);
    assert!(
        start.elapsed() < Duration::from_secs(2) && stderr(&output).contains("500ms"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn programs_that_cannot_run_exit_with_the_codes_of_a_shell() {
    for (argv, expected, word) in [
        (&["--", "no-such-program"][..], 127, "command not found"),
        (&["--", "/etc/passwd"], 126, "permission denied"),
        (&["--", "sh", "-c", "kill -9 $$"], 137, "signal 9"),
        (&["--", "sh", "-c", "kill -15 $$"], 143, "signal 15"),
    ] {
        let output = run(argv);
        assert_eq!(code(&output), expected, "{argv:?}");
        assert!(stderr(&output).contains(word), "{argv:?}: {}", stderr(&output));
    }
    let output = run(&["--output", "json", "--", "no-such-program"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains(r#""cause":"command_not_found""#));
}

fn is_alive(line: &str) -> bool {
    !Command::new("pgrep").args(["-fx", line]).output().unwrap().stdout.is_empty()
}

fn wait_for_job(line: &str) {
    let start = Instant::now();
    while !is_alive(line) {
        assert!(start.elapsed() < Duration::from_secs(10), "the job did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ctrl_c_cancels_the_job_and_is_130() {
    let child = hodei(&["--", "sleep", "61.5"]).spawn().unwrap();
    wait_for_job("sleep 61.5");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130);
    assert!(start.elapsed() < Duration::from_secs(3));
    assert!(!is_alive("sleep 61.5"), "the job still runs");
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    for (name, sleep) in [("HUP", "1.51"), ("INT", "1.52"), ("QUIT", "1.53")] {
        let run = hodei(&["--", "sleep", sleep]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("trap '' {name}; exec \"$0\" \"$@\"")]).arg(run.get_program());
        shell.args(run.get_args()).stdin(Stdio::null());
        shell.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = shell.spawn().unwrap();
        wait_for_job(&format!("sleep {sleep}"));
        let signal = format!("-{name}");
        assert!(Command::new("kill").args([&signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{name}");
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_a_stubborn_job() {
    let child =
        hodei(&["--", "sh", "-c", "trap '' TERM INT; echo up; sleep 62.5; sleep 62.5"]).spawn().unwrap();
    wait_for_job("sleep 62.5");
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    for _ in 0..2 {
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(code(&child.wait_with_output().unwrap()), 130);
    assert!(start.elapsed() < Duration::from_secs(4));
    // A daemon continues the cancel without a waiter, and kills the job after its grace.
    while is_with_daemon() && is_alive("sleep 62.5") && start.elapsed() < Duration::from_secs(9) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!is_alive("sleep 62.5"), "the job still runs");
}

#[test]
fn every_byte_passes_unchanged() {
    let all: Vec<u8> = (0..=255).cycle().take(1 << 16).collect();
    let output = with_input(&["--stdin", "-", "--", "cat"], &all);
    assert!(code(&output) == 0 && output.stdout == all);
    let line = run(&["--shell", "head -c 10000000 /dev/zero | tr '\\0' x"]);
    assert!(line.stdout.len() == 10_000_000 && line.stdout.iter().all(|byte| *byte == b'x'));
}

#[test]
fn stdin_is_given_or_at_its_end() {
    assert_eq!(code(&run(&["--", "cat"])), 0);
    assert_eq!(with_input(&["--", "cat"], b"not for the job").stdout, b"");
    assert_eq!(with_input(&["--stdin", "-", "--", "wc", "-c"], &vec![0; 1 << 20]).stdout, b"1048576\n");
    let over = with_input(&["--stdin", "-", "--", "cat"], &vec![0; (1 << 20) + 1]);
    assert_eq!(code(&over), 125);
    assert!(stderr(&over).contains("stdin has 1048577 bytes; the limit is 1048576"), "{}", stderr(&over));
}

#[test]
fn a_reader_that_goes_away_ends_the_job() {
    let mut child = hodei(&["--", "yes"]).spawn().unwrap();
    drop(child.stdout.take());
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_slow_reader_slows_the_job_and_loses_nothing() {
    let mut child = hodei(&["--", "head", "-c", "100000000", "/dev/zero"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let mut bytes = 0;
    std::io::copy(&mut child.stdout.take().unwrap(), &mut Count(&mut bytes)).unwrap();
    assert_eq!((bytes, child.wait().unwrap().code()), (100_000_000, Some(0)));
}

struct Count<'a>(&'a mut usize);

impl Write for Count<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        *self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn env_cwd_script_and_retries_do_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["--env", "A=b", "--cwd", "made/there", "--shell", "echo $A; pwd"]);
    let (said, workspace) = (String::from_utf8(output.stdout).unwrap(), "/made/there\n");
    assert!(said.starts_with("b\n/") && said.ends_with(workspace), "{said}");
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/usr/bin/env python3\nprint(6 * 7)\n").unwrap();
    assert_eq!(run(&["--script", script.to_str().unwrap()]).stdout, b"42\n");
    std::fs::write(&script, "echo $0 | wc -l\n").unwrap();
    assert_eq!(run(&["--script", script.to_str().unwrap(), "--interpreter", "sh -e"]).stdout, b"1\n");
    let output =
        run(&["--retries", "1", "--priority", "high", "--label", "a=b", "--output", "json", "--", "false"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((json["attempt"].as_u64(), json["state"].as_str()), (Some(2), Some("FAILED")));
    assert_eq!((json["exit_code"].as_i64(), json["labels"]["a"].as_str()), (Some(1), Some("b")));
    let grace = run(&[
        "--timeout",
        "100ms",
        "--kill-grace",
        "100ms",
        "--shell",
        "trap '' TERM; sleep 63 & wait; sleep 63",
    ]);
    assert_eq!(code(&grace), 124);
}

#[test]
fn bad_input_names_the_field_and_the_valid_values() {
    let huge = "x".repeat(100_000);
    let many: Vec<String> = (0..11).map(|n| format!("{n}{huge}")).collect();
    let over: Vec<&str> = ["--", "echo"].into_iter().chain(many.iter().map(String::as_str)).collect();
    let provider = if is_with_daemon() { "process" } else { "local" };
    let image = format!("image: provider `{provider}` does not run container images");
    let cases: [(&[&str], &str); 11] = [
        (&[], "command is empty"),
        (&["--", ""], "command is empty"),
        (&over, "spec has 1100016 bytes; the limit is 1048576"),
        (&["--timeout", "-5s", "--", "true"], "`-5s` is negative: write a duration between 0 and 30 days"),
        (&["--timeout", "0s", "--", "true"], "timeout must be between 1 ms and 30 days"),
        (&["--timeout", "soon", "--", "true"], "`soon` is not a duration"),
        (&["--constraint", "os LIKE x", "--", "true"], "the operator is unknown"),
        (&["--constraint", "os EQ plan9", "--", "true"], "constraints: `os EQ plan9` is not met"),
        (
            &["--cwd", "../etc", "--", "true"],
            "working_dir is neither an absolute path nor one inside the workspace",
        ),
        (&["--image", "busybox", "--", "true"], &image),
        (&["--env", "=x", "--", "true"], "env has a name"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        assert_eq!(code(&output), 125, "{expected}");
        assert!(stderr(&output).contains(expected), "{expected}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked") && output.stdout.is_empty());
    }
}

#[test]
fn an_absolute_working_directory_works_in_every_mode_and_is_created_if_missing() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().canonicalize().unwrap().join("made");
    for there in [std::path::Path::new("/tmp"), &there] {
        let output = run(&["--cwd", there.to_str().unwrap(), "--", "pwd"]);
        assert_eq!((code(&output), stderr(&output)), (0, String::new()));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), there.to_str().unwrap());
    }
}

#[test]
fn a_script_keeps_its_extension_and_temporary_files_are_removed_with_the_job() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("build.mjs");
    std::fs::write(&script, "#!/bin/sh\necho ${0##*/}; mktemp").unwrap();
    let output = run(&["--script", script.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!((code(&output), lines[0]), (0, "script.mjs"), "{}", stderr(&output));
    assert!(!std::path::Path::new(lines[1]).parent().unwrap().exists(), "{said}");
}

#[test]
fn the_name_of_a_missing_program_cannot_move_the_cursor() {
    let output = run(&["--", "no\u{1b}[2Jprogram"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(127), "{said:?}");
    assert!(said.contains("[2Jprogram") && !said.contains('\u{1b}'), "{said:?}");
}
