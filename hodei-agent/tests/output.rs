//! The output of real processes: on the stream and in files.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/platform.rs"]
mod platform;

use std::path::Path;
use std::time::Duration;

use hodei_agent::{AgentConfig, FileLogger, SpoolConfig, SystemClock};
use hodei_core::job::{CauseKind, JobResources, JobSpec, JobSpecBuilder, Outcome};
use hodei_core::port::{Clock, ClockExt};
use hodei_proto::v1::agent_message::Body as FromAgent;
use hodei_proto::v1::server_message::Body as ToAgent;
use hodei_proto::{convert, v1};
use platform::{Platform, cause, skip};

async fn logging(logger: FileLogger) -> Platform {
    Platform::start_with(AgentConfig { slots: 2, ..AgentConfig::default() }, Some(logger)).await
}

#[tokio::test]
async fn a_hundred_thousand_lines_take_few_messages() {
    let mut platform = Platform::start(1).await;
    // One write per line.
    let line = "import os\nfor n in range(100000): os.write(1, b'line %d\\n' % n)";
    platform.assign(1, JobSpec::command(["python3", "-c", line])).await;
    let mut messages = 0;
    let report = loop {
        match platform.next().await.unwrap() {
            FromAgent::LogBatch(batch) => {
                messages += 1;
                platform.on_logs(batch).await;
            }
            FromAgent::JobFinished(finished) => break convert::report_from_wire(finished).unwrap().1,
            _ => messages += 1,
        }
    };
    assert_eq!(report.outcome, Outcome::Succeeded);
    let lines = platform.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!((lines, platform.stdout.ends_with(b"line 99999\n")), (100_000, true));
    assert!(messages <= 1000, "{messages} messages for 100,000 lines");
}

#[tokio::test]
async fn output_beyond_a_full_spool_leaves_a_hole_in_its_numbers_and_the_job_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Some(SpoolConfig { dir: dir.path().into(), limit: 1 << 20 });
    let mut platform = Platform::start_with(AgentConfig { spool, ..AgentConfig::default() }, None).await;
    let (go, written) = (dir.path().join("go"), dir.path().join("written"));
    let line = format!(
        "echo first; while [ ! -e {} ]; do sleep 0.01; done; head -c 20000000 /dev/zero | tr '\\0' x; touch {}; exec sleep 60",
        go.display(),
        written.display()
    );
    platform.assign(1, JobSpec::shell(line)).await;
    let Some(FromAgent::JobStarted(_) | FromAgent::LogBatch(_)) = platform.next().await else { panic!() };
    platform.break_stream().await;
    std::fs::write(go, "").unwrap();
    let clock = SystemClock::default();
    let job_has_written = async {
        while !written.exists() {
            clock.sleep(Duration::from_millis(10)).await;
        }
    };
    clock.timeout(Duration::from_secs(20), job_has_written).await.expect("the job is held up by its output");
    platform.again(Duration::from_secs(60)).await;
    platform.cancel(1, Duration::ZERO).await;
    let (mut numbers, mut bytes) = (std::collections::BTreeSet::new(), 0);
    let report = loop {
        match platform.next().await.unwrap() {
            FromAgent::LogBatch(batch) => {
                bytes += batch.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>();
                let next_sequence = batch.first_sequence + batch.chunks.len() as u64;
                numbers.extend(batch.first_sequence..next_sequence);
                platform.send(ToAgent::LogAck(v1::LogAck { attempt: batch.attempt, next_sequence })).await;
            }
            FromAgent::JobFinished(finished) => break convert::report_from_wire(finished).unwrap().1,
            _ => {}
        }
    };
    assert_eq!(report.outcome, Outcome::Cancelled);
    // A batch that does not fit is dropped as a whole.
    let least = (1 << 20) - (64 << 10);
    assert!((least..6 << 20).contains(&bytes), "{bytes} bytes were kept");
    assert!(numbers.contains(&0), "the first output was not kept");
    assert!((numbers.len() as u64) < report.log_end, "dropped output has no numbers: {}", report.log_end);
}

#[tokio::test]
async fn a_file_has_the_same_output_as_the_platform() {
    let dir = tempfile::tempdir().unwrap();
    let mut platform = logging(FileLogger::new(dir.path().join("made/when-missing"))).await;
    platform.run(JobSpec::shell("echo out; sleep 0.05; echo err >&2; sleep 0.05; echo more")).await;
    let id = platform.attempt(1);
    let file = dir.path().join(format!("made/when-missing/{}.1.log", id.job));
    assert_eq!(std::fs::read(&file).unwrap(), b"out\nerr\nmore\n");
    platform.assign(2, JobSpec::command(["true"])).await;
    platform.report().await;
    assert_eq!(
        std::fs::read_dir(file.parent().unwrap()).unwrap().count(),
        1,
        "a job without output has a file"
    );
}

#[tokio::test]
async fn a_file_ends_at_its_limit_with_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let logger = FileLogger { dir: dir.path().into(), limit: 100_000 };
    let mut platform = logging(logger).await;
    let report = platform.run(JobSpec::shell("head -c 300000 /dev/zero | tr '\\0' x")).await;
    assert_eq!((report.outcome, platform.stdout.len()), (Outcome::Succeeded, 300_000));
    let job = platform.attempt(1).job;
    let text = std::fs::read_to_string(dir.path().join(format!("{job}.1.log"))).unwrap();
    let (output, rest) = text.split_at(100_000);
    assert!(output.bytes().all(|byte| byte == b'x'));
    assert_eq!(rest, format!("\nhodei: the job wrote more: see `hodei job logs {job}`\n"));
}

#[tokio::test]
async fn a_job_goes_on_without_its_output_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    for logger in [Path::new("/proc/none"), &dir.path().join("file"), &full] {
        let mut platform = logging(FileLogger::new(logger)).await;
        // Simulates a full disk.
        let name = format!("{}.1.log", platform.attempt(1).job);
        let _ = std::os::unix::fs::symlink("/dev/full", full.join(name));
        let report = platform.run(JobSpec::shell("echo a; sleep 0.05; echo b; exit 3")).await;
        assert_eq!((cause(&report), &platform.stdout[..]), (Some(CauseKind::Exit), &b"a\nb\n"[..]));
    }
}

#[tokio::test]
async fn a_job_goes_on_with_a_read_only_directory_of_output_files() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |options: &[&str]| {
        let status = std::process::Command::new("mount").args(options).arg("tmpfs").arg(dir.path()).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "ro,size=1m"]) {
        return skip("mount");
    }
    let mut platform = logging(FileLogger::new(dir.path())).await;
    let report = platform.run(JobSpec::shell("echo a")).await;
    let _ = std::process::Command::new("umount").arg(dir.path()).status();
    assert_eq!((report.outcome, &platform.stdout[..]), (Outcome::Succeeded, &b"a\n"[..]));
}

#[tokio::test]
async fn a_hanging_directory_delays_no_stop_and_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut platform = logging(FileLogger::new(dir.path())).await;
    // Opening the fifo for writing waits for a reader.
    let fifo = dir.path().join(format!("{}.1.log", platform.attempt(1).job));
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    platform.assign(1, JobSpec::shell("echo out; sleep 60")).await;
    while platform.stdout.is_empty() {
        if let FromAgent::LogBatch(batch) = platform.next().await.unwrap() {
            platform.on_logs(batch).await;
        }
    }
    platform.cancel(1, Duration::ZERO).await;
    let gone = SystemClock::default().timeout(Duration::from_secs(3), platform.wait_for_processes(0)).await;
    let (_, report) = platform.report().await;
    let reader = std::fs::File::open(&fifo);
    assert_eq!((gone, report.outcome), (Ok(()), Outcome::Cancelled));
    platform.assign(2, JobSpec::shell("echo out")).await;
    assert_eq!(platform.report().await.1.outcome, Outcome::Succeeded);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no second file");
    drop(reader);
}

/// A spec and its expected standard output.
type Case = (JobSpecBuilder, String);

fn bash(line: &str) -> JobSpecBuilder {
    JobSpec::command(["bash", "-c", line])
}

/// Returns jobs whose last output is written by another process after their main process ended.
fn jobs_with_late_output() -> Vec<Case> {
    let numbers: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    vec![
        (bash("exec > >(sleep 0.1; cat); echo LAST"), "LAST\n".into()),
        (bash("exec > >(tee /dev/null) 2>&1; seq 2000; echo LAST; exit 1"), format!("{numbers}LAST\n")),
        (bash("(sleep 0.1; echo late) & echo first"), "first\nlate\n".into()),
        (bash("exec > >(exec > >(cat); cat); echo LAST; kill -9 $$"), "LAST\n".into()),
        (bash("setsid sh -c 'sleep 0.1; echo LAST' & exit 3"), "LAST\n".into()),
    ]
}

async fn assert_late_output_is_kept(limits: JobResources) {
    let mut platform = Platform::start(1).await;
    for (number, (spec, expected)) in (1..).zip(jobs_with_late_output()) {
        (platform.stdout, platform.log_seen) = (Vec::new(), 0);
        platform.assign(number, spec.resources(limits)).await;
        platform.report().await;
        assert_eq!(String::from_utf8_lossy(&platform.stdout), expected, "of job {number}");
        assert_eq!(platform.processes(), 0, "processes of job {number} still live");
    }
}

#[tokio::test]
async fn late_output_of_the_process_group_is_not_lost() {
    assert_late_output_is_kept(JobResources::default()).await;
}

#[tokio::test]
async fn late_output_of_a_limited_job_is_not_lost() {
    assert_late_output_is_kept(JobResources { pids: 100, ..JobResources::default() }).await;
}

#[tokio::test]
async fn late_output_is_not_lost_on_a_busy_machine() {
    let burners: Vec<_> = (0..8)
        .map(|_| {
            std::process::Command::new("timeout").args(["20", "sh", "-c", "while :; do :; done"]).spawn()
        })
        .collect();
    assert_late_output_is_kept(JobResources::default()).await;
    for burner in burners {
        let mut burner = burner.unwrap();
        let _ = std::process::Command::new("kill").arg(burner.id().to_string()).status();
        burner.wait().unwrap();
    }
}

#[tokio::test]
async fn late_output_is_not_lost_if_the_platform_pauses() {
    let mut platform = Platform::start(1).await;
    let bytes = (1 << 20) + 150_000;
    platform.assign(1, bash(&format!("exec > >(cat); head -c {bytes} /dev/zero"))).await;
    let mut held = Vec::new();
    // Acknowledges nothing until long after the end of the main process.
    while let Ok(message) = SystemClock::default().timeout(Duration::from_secs(1), platform.from.recv()).await
    {
        held.extend(message.unwrap().body);
    }
    for message in held {
        if let FromAgent::LogBatch(batch) = message {
            platform.on_logs(batch).await;
        }
    }
    assert_eq!(platform.report().await.1.outcome, Outcome::Succeeded);
    assert_eq!((platform.stdout.len(), platform.processes()), (bytes, 0));
}

#[tokio::test]
async fn a_group_that_writes_forever_is_ended() {
    let mut platform = Platform::start(1).await;
    let clock = SystemClock::default();
    for (number, line) in (1..).zip(["yes & exit 0", "while :; do echo x; sleep 0.05; done & exit 0"]) {
        let started = clock.monotonic();
        platform.assign(number, bash(line)).await;
        let (_, report) = platform.report().await;
        let took = clock.monotonic() - started;
        assert_eq!((report.outcome, platform.processes()), (Outcome::Succeeded, 0), "{line}");
        assert!(took < Duration::from_secs(5), "{line} took {took:?}");
    }
}

#[tokio::test]
async fn a_cancel_ends_the_wait_for_late_output() {
    let mut platform = Platform::start(1).await;
    let bytes = 3 << 20;
    // Without acknowledgements, the group never finishes its output.
    platform.assign(1, bash(&format!("head -c {bytes} /dev/zero & exit 0"))).await;
    let clock = SystemClock::default();
    let unread = async { while platform.from.recv().await.is_some() {} };
    assert!(clock.timeout(Duration::from_secs(1), unread).await.is_err());
    assert!(platform.processes() > 0, "it should still wait for its output");
    platform.cancel(1, Duration::ZERO).await;
    platform.wait_for_processes(0).await;
}

#[tokio::test]
async fn a_job_without_open_pipes_ends_at_once() {
    let mut platform = Platform::start(1).await;
    let clock = SystemClock::default();
    let mut number = 0;
    let mut quickest = Vec::new();
    // The second job leaves a process that holds no pipe.
    for line in ["echo a; echo b >&2; exit 2", "sleep 60 >/dev/null 2>&1 & echo a; echo b >&2; exit 2"] {
        let mut best = Duration::MAX;
        for _ in 0..8 {
            number += 1;
            let started = clock.monotonic();
            platform.assign(number, bash(line)).await;
            platform.report().await;
            best = best.min(clock.monotonic() - started);
        }
        quickest.push(best);
    }
    assert!(quickest[1] < quickest[0] + Duration::from_millis(150), "{quickest:?}");
    assert_eq!(platform.processes(), 0);
}
