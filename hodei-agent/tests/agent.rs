//! The agent with real processes, tested over its protocol.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/platform.rs"]
mod platform;

use std::sync::Arc;
use std::time::Duration;

use hodei_agent::{JobExecutor, Marks, SystemClock, marked_processes};
use hodei_core::id::{StoreId, WorkerId};
use hodei_core::job::{CauseKind, JobResources, JobSpec, Outcome};
use hodei_core::port::{Clock, ClockExt};
use hodei_proto::v1::agent_message::Body as FromAgent;
use hodei_proto::v1::server_message::Body as ToAgent;
use hodei_proto::{convert, v1};
use platform::{Platform, cause, skip, stream};
use uuid::Uuid;

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::command(["sh", "-c", "echo a; echo b >&2; exit 7"])).await;
    assert_eq!((cause(&report), report.exit_code), (Some(CauseKind::Exit), Some(7)));
    assert_eq!((&platform.stdout[..], &platform.stderr[..]), (&b"a\n"[..], &b"b\n"[..]));
    assert!(report.started_at.unwrap() <= report.finished_at && report.log_end >= 2);
}

#[tokio::test]
async fn a_job_that_cannot_start_reports_the_cause() {
    for (argv, expected) in
        [("no-such-program", CauseKind::CommandNotFound), ("/etc/passwd", CauseKind::PermissionDenied)]
    {
        let report = Platform::start(1).await.run(JobSpec::command([argv])).await;
        assert_eq!((cause(&report), report.started_at), (Some(expected), None));
    }
    let report = Platform::start(1).await.run(JobSpec::command(["true"]).working_dir("/etc/passwd")).await;
    assert_eq!(cause(&report), Some(CauseKind::FileNotFound));
}

#[tokio::test]
async fn stdin_arrives_whole_and_ends() {
    let input: Vec<u8> = (0..1 << 20).map(|n: u32| (n * 7 % 256) as u8).collect();
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::command(["cat"]).stdin(input.clone())).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    assert!(platform.stdout == input, "{} bytes came back", platform.stdout.len());
    let empty = Platform::start(1).await.run(JobSpec::command(["cat"])).await;
    assert_eq!(empty.outcome, Outcome::Succeeded, "a job without input reads an empty stdin");
}

#[tokio::test]
async fn a_script_runs_by_its_interpreter() {
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::script("#!/bin/sh -e\nfalse\necho never")).await;
    assert_eq!((report.exit_code, platform.stdout.len()), (Some(1), 0));
    let mut platform = Platform::start(1).await;
    platform.run(JobSpec::script("print(6 * 7)").interpreter("python3")).await;
    assert_eq!(platform.stdout, b"42\n");
}

#[tokio::test]
async fn the_environment_is_that_of_the_spec_and_of_the_agent() {
    let mut platform = Platform::start(1).await;
    platform.run(JobSpec::command(["env"]).env("GREETING", "hi").env("LANG", "xx")).await;
    let text = String::from_utf8(platform.stdout.clone()).unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    let expected = [
        "GREETING",
        "HODEI_ATTEMPT",
        "HODEI_JOB_ID",
        "HODEI_OWNER",
        "HODEI_WORKER_ID",
        "HODEI_WORKSPACE",
        "HOME",
        "LANG",
        "PATH",
        "TMPDIR",
        "USER",
    ];
    // If the agent has no TZ, a job has none either: its programs use the zone of the machine.
    let has_zone = std::env::var_os("TZ").is_some();
    assert_eq!(text.lines().any(|line| line.starts_with("TZ=")), has_zone);
    names.retain(|name| *name != "TZ");
    assert_eq!(names, expected);
    assert!(text.contains("LANG=xx\n"));
}

const STUBBORN: &str =
    "trap '' TERM; (setsid sh -c 'trap \"\" TERM; (sleep 60 & sleep 60) & sleep 60' &) ; sleep 60; sleep 60";

#[tokio::test]
async fn a_cancel_leaves_no_process_alive() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell(STUBBORN)).await;
    platform.wait_for_processes(6).await;
    platform.cancel(1, Duration::from_millis(200)).await;
    let (_, report) = platform.report().await;
    assert_eq!((report.outcome, platform.processes()), (Outcome::Cancelled, 0));
}

#[tokio::test]
async fn a_timeout_leaves_no_process_alive() {
    let mut platform = Platform::start(1).await;
    let spec =
        JobSpec::shell(STUBBORN).timeout(Duration::from_millis(300)).kill_grace(Duration::from_millis(100));
    let report = platform.run(spec).await;
    assert_eq!((report.outcome, platform.processes()), (Outcome::TimedOut, 0));
}

#[tokio::test]
async fn the_end_of_the_main_process_is_the_end_of_the_job() {
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::shell("sleep 60 & echo done")).await;
    assert_eq!((report.outcome, &platform.stdout[..]), (Outcome::Succeeded, &b"done\n"[..]));
    assert_eq!(platform.processes(), 0, "its group is killed with it");
}

#[tokio::test]
async fn a_stranger_that_writes_forever_does_not_keep_the_job() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell("setsid yes & sleep 0.1; exit 0")).await;
    let (_, report) = platform.report().await;
    assert_eq!(report.outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn a_process_without_its_mark_is_killed_too() {
    let mut platform = Platform::start(1).await;
    let spec = JobSpec::shell("exec env -i sh -c 'trap \"\" TERM; while :; do sleep 1; done'");
    let spec = spec.timeout(Duration::from_millis(200)).kill_grace(Duration::from_millis(100));
    assert_eq!(platform.run(spec).await.outcome, Outcome::TimedOut);
}

#[tokio::test]
async fn a_job_that_handles_term_keeps_its_outcome_cancelled() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::shell("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")).await;
    while platform.stdout.is_empty() {
        if let Some(FromAgent::LogBatch(batch)) = platform.next().await {
            platform.on_logs(batch).await;
        }
    }
    platform.cancel(1, Duration::from_secs(5)).await;
    let (_, report) = platform.report().await;
    assert_eq!((report.outcome, report.exit_code), (Outcome::Cancelled, Some(0)));
}

#[tokio::test]
async fn repeated_and_reordered_messages_run_a_job_once() {
    let mut platform = Platform::start(1).await;
    platform.cancel(3, Duration::ZERO).await;
    let (number, report) = platform.report().await;
    assert_eq!((number, report.outcome, report.started_at), (3, Outcome::Cancelled, None));
    for _ in 0..3 {
        platform.assign(1, JobSpec::command(["echo", "once"])).await;
        platform.assign(3, JobSpec::command(["echo", "never"])).await;
    }
    assert_eq!(platform.report().await.0, 1);
    platform.assign(1, JobSpec::command(["echo", "again"])).await;
    platform.assign(2, JobSpec::command(["echo", "twice"])).await;
    assert_eq!(platform.report().await.0, 2);
    assert_eq!(
        platform.stdout.len() + platform.stderr.len(),
        "once\n".len(),
        "log sequences of attempt 2 start at 0, so its output counts as seen"
    );
}

#[tokio::test]
async fn everything_unacknowledged_is_sent_again_after_a_broken_stream() {
    let mut platform = Platform::start(2).await;
    platform.assign(1, JobSpec::shell("echo first; sleep 0.3; echo second")).await;
    platform.assign(2, JobSpec::command(["true"])).await;
    while !matches!(platform.next().await, Some(FromAgent::JobFinished(_))) {}
    let (to, from) = stream(&platform.door);
    (platform.to, platform.from) = (to, from);
    let hello = platform.welcome().await;
    assert_eq!(hello.held.len(), 2, "one runs, one ended and was not acknowledged");
    let mut numbers = [platform.report().await.0, platform.report().await.0];
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    assert_eq!(platform.stdout, b"first\nsecond\n");
}

#[tokio::test]
async fn a_fenced_attempt_is_killed_and_silent() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::command(["sleep", "60"])).await;
    platform.wait_for_processes(1).await;
    let attempts = vec![convert::attempt_ref(platform.attempt(1))];
    platform.send(ToAgent::Fenced(v1::Fenced { attempts })).await;
    platform.wait_for_processes(0).await;
    platform.assign(2, JobSpec::command(["true"])).await;
    assert_eq!(platform.report().await.0, 2);
}

#[tokio::test]
async fn a_drained_agent_gives_back_waiting_jobs_and_leaves() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::command(["sleep", "0.2"])).await;
    platform.assign(2, JobSpec::command(["true"])).await;
    platform.wait_for_processes(1).await;
    platform.send(ToAgent::Drain(v1::Drain {})).await;
    let mut said = Vec::new();
    while let Some(message) = platform.next().await {
        match message {
            FromAgent::GiveBack(back) => said.push(format!("back {}", back.attempts[0].attempt)),
            FromAgent::JobFinished(finished) => {
                let attempts = vec![finished.attempt.unwrap()];
                said.push(format!("finished {}", attempts[0].attempt));
                platform.send(ToAgent::ResultAck(v1::ResultAck { attempts })).await;
            }
            FromAgent::Draining(draining) => said.push(format!("draining {}", draining.empty)),
            _ => {}
        }
    }
    assert_eq!(said, ["draining false", "back 2", "finished 1", "draining true"]);
    platform.agent.await.unwrap();
}

#[tokio::test]
async fn an_agent_that_drains_while_the_platform_is_away_gives_back_when_it_returns() {
    let mut platform = Platform::start(1).await;
    platform.assign(1, JobSpec::command(["sleep", "0.3"])).await;
    platform.assign(2, JobSpec::command(["true"])).await;
    platform.wait_for_processes(1).await;
    // The stream breaks, and the agent is told to drain before another one opens.
    platform.break_stream().await;
    platform.stop.drain.cancel();
    platform.wait_for_processes(0).await;
    (platform.to, platform.from) = stream(&platform.door);
    let hello = platform.welcome().await;
    assert_eq!(hello.held.len(), 2, "both attempts are held");
    let mut said = Vec::new();
    while let Some(message) = platform.next().await {
        match message {
            FromAgent::GiveBack(back) => said.push(format!("back {}", back.attempts[0].attempt)),
            FromAgent::JobFinished(finished) => {
                let attempts = vec![finished.attempt.unwrap()];
                said.push(format!("finished {}", attempts[0].attempt));
                platform.send(ToAgent::ResultAck(v1::ResultAck { attempts })).await;
            }
            FromAgent::Draining(v1::Draining { empty: true }) => said.push("empty".into()),
            _ => {}
        }
    }
    said.sort();
    assert_eq!(said, ["back 2", "empty", "finished 1"]);
    assert_eq!(platform.agent.await.unwrap(), hodei_agent::Left::Drained);
}

#[tokio::test]
async fn an_agent_without_jobs_or_platform_leaves_when_it_is_drained() {
    let mut platform = Platform::start(1).await;
    platform.break_stream().await;
    platform.stop.drain.cancel();
    let left = SystemClock::default().timeout(Duration::from_secs(20), platform.agent).await;
    assert_eq!(left.unwrap().unwrap(), hodei_agent::Left::Gone, "the platform did not hear that it drained");
}

#[tokio::test]
async fn unacknowledged_output_on_the_stream_is_bounded_and_heartbeats_go_on() {
    let mut platform = Platform::start(12).await;
    platform.again(Duration::from_millis(20)).await;
    for number in 1..=12 {
        platform.assign(number, JobSpec::command(["head", "-c", "4000000", "/dev/zero"])).await;
    }
    let (mut output, mut beats) = (0, 0);
    while beats < 40 {
        match platform.next().await.unwrap() {
            FromAgent::LogBatch(batch) => {
                output += batch.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>();
            }
            FromAgent::Heartbeat(_) => beats += 1,
            _ => {}
        }
    }
    assert!((4 << 20..=10 << 20).contains(&output), "{output} bytes without one acknowledgement");
    platform.kill().await;
}

#[tokio::test]
async fn a_killed_agent_leaves_no_process() {
    let platform = Platform::start(2).await;
    platform.assign(1, JobSpec::shell(STUBBORN)).await;
    platform.wait_for_processes(6).await;
    let marks = platform.marks.clone();
    platform.kill().await;
    let left = marked_processes(&marks.of_worker()).len();
    assert_eq!(left, 0);
}

/// Returns the limits, or `None` if the agent cannot enforce them on this machine.
fn held(limits: JobResources) -> Option<JobResources> {
    let marks = Marks::new(StoreId::from_uuid(Uuid::nil()), "test", WorkerId::from_uuid(Uuid::nil()));
    let is_held = JobExecutor::new(Arc::new(SystemClock::default()), marks).holds_limits();
    if !is_held {
        skip("cgroups");
    }
    is_held.then_some(limits)
}

#[tokio::test]
async fn a_job_that_takes_more_memory_than_its_limit_ends_out_of_memory() {
    let Some(limits) = held(JobResources { memory_bytes: 64 << 20, ..JobResources::default() }) else {
        return;
    };
    let mut platform = Platform::start(2).await;
    platform.assign(1, JobSpec::shell("sleep 1; echo beside")).await;
    let eater = JobSpec::command(["python3", "-c", "x = bytearray(256 << 20); print(len(x))"]);
    platform.assign(2, eater.resources(limits)).await;
    let (number, report) = platform.report().await;
    assert_eq!((number, cause(&report)), (2, Some(CauseKind::OutOfMemory)), "{report:?}");
    assert!(format!("{:?}", report.outcome).contains("67108864"), "{report:?}");
    let peak = report.usage.unwrap().peak_memory_bytes;
    assert!((1 << 20..=64 << 20).contains(&peak), "{peak}");
    let (number, report) = platform.report().await;
    assert_eq!((number, report.outcome), (1, Outcome::Succeeded), "the agent and its other jobs go on");
}

#[tokio::test]
async fn a_fork_bomb_stops_at_the_limit_of_its_job() {
    let Some(limits) = held(JobResources { pids: 16, ..JobResources::default() }) else { return };
    let mut platform = Platform::start(2).await;
    // Continues after a failed fork, unlike a shell, and creates at most 64 processes without a limit.
    let bomb = r"
import os, time
forks = 6
while forks:
    try:
        os.fork()
        forks -= 1
    except OSError:
        time.sleep(0.01)
time.sleep(60)
";
    platform.assign(1, JobSpec::command(["python3", "-c", bomb]).resources(limits)).await;
    platform.wait_for_processes(16).await;
    let mut most = 0;
    for _ in 0..50 {
        most = most.max(platform.processes());
        SystemClock::default().sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(most, 16, "processes at once");
    platform.assign(2, JobSpec::command(["true"])).await;
    let (number, report) = platform.report().await;
    assert_eq!((number, report.outcome), (2, Outcome::Succeeded), "the agent still starts jobs");
    platform.cancel(1, Duration::from_millis(100)).await;
    loop {
        let (number, _) = platform.report().await;
        if number == 1 {
            break;
        }
    }
    assert_eq!(platform.processes(), 0);
}

#[tokio::test]
async fn a_job_reports_its_usage() {
    let mut platform = Platform::start(1).await;
    let burn = "x = bytearray(512 << 20)\nimport time\nwhile time.process_time() < 0.3: pass";
    let usage = platform.run(JobSpec::command(["python3", "-c", burn])).await.usage.unwrap();
    assert!((300_000..3_000_000).contains(&usage.cpu_micros), "{usage:?}");
    assert!((512 << 20..1 << 30).contains(&usage.peak_memory_bytes), "{usage:?}");
    platform.assign(2, JobSpec::command(["true"])).await;
    let usage = platform.report().await.1.usage.unwrap();
    assert_eq!(usage.peak_memory_bytes, 0, "a peak that may be the agent's own is not reported");
    let Some(limits) = held(JobResources { cpu_millis: 200, ..JobResources::default() }) else { return };
    let mut platform = Platform::start(1).await;
    let report = platform.run(JobSpec::command(["python3", "-c", burn]).resources(limits)).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    let took = report.finished_at.as_micros() - report.started_at.unwrap().as_micros();
    assert!(took > 1_000_000, "a fifth of a processor makes 0.3 s of work last 1.5 s, not {took} us");
}

#[tokio::test]
async fn a_limited_job_runs_its_program_and_its_group_is_removed() {
    let Some(limits) = held(JobResources { pids: 8, ..JobResources::default() }) else { return };
    let mut platform = Platform::start(1).await;
    let spec =
        JobSpec::command(["sh", "-c", "cat; echo \"$1\"; cat /proc/self/cgroup; exit 3", "a b", "$HOME *"]);
    let report = platform.run(spec.stdin("in\n").resources(limits)).await;
    assert_eq!((cause(&report), report.exit_code), (Some(CauseKind::Exit), Some(3)));
    let text = String::from_utf8(platform.stdout.clone()).unwrap();
    let rest = text.strip_prefix("in\n$HOME *\n").unwrap_or_else(|| panic!("{text}"));
    let group = rest.lines().find_map(|line| line.split_once("/hodei-")).expect(rest);
    let name = format!("hodei-{}", group.1);
    let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", &name]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "groups remain");
    let missing = Platform::start(1).await.run(JobSpec::command(["no-such-program"]).resources(limits)).await;
    assert_eq!(cause(&missing), Some(CauseKind::CommandNotFound));
}

#[tokio::test]
async fn a_limited_job_without_its_marks_and_outside_its_process_group_is_killed_too() {
    let Some(limits) = held(JobResources { pids: 16, ..JobResources::default() }) else { return };
    let dir = tempfile::tempdir().unwrap();
    let alive = dir.path().join("alive");
    let hidden = format!("while :; do date +%s%N > {}; sleep 0.02; done", alive.display());
    let spec = JobSpec::command(["sh", "-c", "setsid env -i PATH=$PATH sh -c \"$0\" & sleep 0.5", &hidden]);
    let mut platform = Platform::start(1).await;
    let report = platform.run(spec.resources(limits)).await;
    assert_eq!(report.outcome, Outcome::Succeeded);
    let read = || std::fs::read_to_string(&alive).unwrap();
    let last = read();
    SystemClock::default().sleep(Duration::from_millis(200)).await;
    assert_eq!(read(), last, "the process still writes");
}
