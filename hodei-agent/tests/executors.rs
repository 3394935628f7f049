//! Executors that fail in their duties: the agent reports for them and continues.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/platform.rs"]
mod platform;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{
    AgentConfig, Chunk, Executor, Job, JobExecutor, Output, StopReason, StopSignal, SystemClock,
};
use hodei_core::job::{AttemptReport, Command, FailureCause, JobSpec, JobSpecBuilder, Outcome};
use hodei_core::port::{Clock, ClockExt, LogStream};
use hodei_core::time::Timestamp;
use hodei_proto::v1::agent_message::Body as FromAgent;
use hodei_proto::v1::server_message::Body as ToAgent;
use hodei_proto::{convert, v1};
use platform::Platform;

/// Misbehaves as the first word of a job says. Passes other jobs to a correct executor.
#[derive(Debug)]
struct MisbehavingExecutor {
    inner: JobExecutor,
    clock: SystemClock,
    dropped: Arc<AtomicU32>,
}

/// Counts its drops.
struct Held(Arc<AtomicU32>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Panics when it is dropped.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("a destructor of its own");
    }
}

#[async_trait]
impl Executor for MisbehavingExecutor {
    async fn run(&self, job: Job, mut stop: StopSignal, output: Output) -> AttemptReport {
        let word = match job.spec.what() {
            Command::Argv(argv) => argv[0].as_str(),
            _ => "",
        };
        let now = self.clock.now();
        match word {
            "panic" => panic!("a mistake in attempt {}", job.attempt.number),
            "panic later" => {
                output.started(now).await;
                self.clock.sleep(Duration::from_millis(50)).await;
                panic!("static words");
            }
            "panic with a number" => std::panic::panic_any(7),
            "panic with a bomb" => std::panic::panic_any(PanicsOnDrop),
            "panic in a destructor" => {
                let _held = PanicsOnDrop;
                return ended(Outcome::Succeeded, now);
            }
            "deaf" => {
                let _held = Held(self.dropped.clone());
                output.started(now).await;
                std::future::pending::<()>().await;
            }
            "mute and deaf" => std::future::pending::<()>().await,
            "blocks" => {
                output.started(now).await;
                // The agent of this test runs on other threads.
                std::thread::sleep(Duration::from_secs(3));
            }
            "no clock" => {
                output.started(now).await;
                let asked = stop.wait_for(Option::is_some).await.unwrap().unwrap();
                let outcome =
                    if asked.reason == StopReason::Timeout { Outcome::TimedOut } else { Outcome::Cancelled };
                return ended(outcome, now);
            }
            "writes on" => {
                output.started(now).await;
                let (output, clock) = (output.clone(), SystemClock::default());
                #[allow(clippy::disallowed_methods, reason = "an executor without manners")]
                tokio::spawn(async move {
                    loop {
                        let bytes = "late\n".into();
                        output.write(Chunk { stream: LogStream::Stdout, at: Timestamp::EPOCH, bytes }).await;
                        clock.sleep(Duration::from_millis(1)).await;
                    }
                });
                self.clock.sleep(Duration::from_millis(50)).await;
                return ended(Outcome::Succeeded, now);
            }
            _ => return self.inner.run(job, stop, output).await,
        }
        ended(Outcome::Succeeded, now)
    }
}

fn ended(outcome: Outcome, now: Timestamp) -> AttemptReport {
    AttemptReport { started_at: Some(now), ..AttemptReport::unstarted(outcome, now) }
}

async fn start(slots: u32) -> (Platform, Arc<AtomicU32>) {
    let dropped = Arc::new(AtomicU32::new(0));
    let held = dropped.clone();
    let config = AgentConfig { slots, stop_margin: Duration::from_millis(300), ..AgentConfig::default() };
    let misbehaving = |inner| {
        Arc::new(MisbehavingExecutor { inner, clock: SystemClock::default(), dropped: held })
            as Arc<dyn Executor>
    };
    (Platform::start_over(config, misbehaving).await, dropped)
}

fn job(word: &str) -> JobSpecBuilder {
    JobSpec::command([word]).kill_grace(Duration::from_millis(100))
}

/// Asserts that the slot is free again.
async fn runs_on(platform: &mut Platform) {
    platform.assign(99, JobSpec::command(["true"])).await;
    let (number, report) = platform.report().await;
    assert_eq!((number, report.outcome), (99, Outcome::Succeeded));
}

#[tokio::test]
async fn a_panic_is_a_failure_with_its_message_and_frees_the_slot() {
    let (mut platform, _) = start(1).await;
    let panics = [
        ("panic", "a mistake in attempt 1"),
        ("panic later", "static words"),
        ("panic with a number", "without a message"),
        ("panic with a bomb", "without a message"),
        ("panic in a destructor", "a destructor of its own"),
    ];
    for (number, (word, message)) in (1..).zip(panics) {
        platform.assign(number, job(word)).await;
        let (reported, report) = platform.report().await;
        let Outcome::Failed(FailureCause::Infrastructure(why)) = &report.outcome else {
            panic!("{report:?}")
        };
        assert_eq!((reported, why.contains(message)), (number, true), "{why}");
        assert!(report.started_at.is_some(), "it may have started: `at_most_once` must hold");
    }
    runs_on(&mut platform).await;
    platform.kill().await;
}

#[tokio::test]
async fn an_executor_that_ignores_timeout_and_stop_is_given_up_in_bounded_time() {
    let (mut platform, dropped) = start(1).await;
    let clock = SystemClock::default();
    let begun = clock.monotonic();
    platform.assign(1, job("deaf").timeout(Duration::from_millis(100))).await;
    assert_eq!(platform.report().await.1.outcome, Outcome::TimedOut);
    // The timeout, a second to enforce it, the grace period and the margin.
    assert!(clock.monotonic() - begun < Duration::from_secs(4), "{:?}", clock.monotonic() - begun);
    assert_eq!(dropped.load(Ordering::Relaxed), 1, "its state was dropped");
    for (number, word) in [(2, "deaf"), (3, "mute and deaf")] {
        platform.assign(number, job(word)).await;
        platform.cancel(number, Duration::from_millis(100)).await;
        assert_eq!(platform.report().await.1.outcome, Outcome::Cancelled, "{word}");
    }
    runs_on(&mut platform).await;
    platform.kill().await;
}

#[tokio::test]
async fn an_executor_that_honours_stops_needs_no_own_timeout() {
    let (mut platform, _) = start(1).await;
    platform.assign(1, job("no clock").timeout(Duration::from_millis(50))).await;
    assert_eq!(platform.report().await.1.outcome, Outcome::TimedOut);
    platform.kill().await;
}

#[tokio::test]
async fn a_fenced_attempt_of_a_deaf_executor_frees_its_slot() {
    let (mut platform, dropped) = start(1).await;
    platform.assign(1, job("deaf")).await;
    while !matches!(platform.next().await, Some(FromAgent::JobStarted(_))) {}
    let attempts = vec![convert::attempt_ref(platform.attempt(1))];
    platform.send(ToAgent::Fenced(v1::Fenced { attempts })).await;
    runs_on(&mut platform).await;
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    platform.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_agent_ends_although_its_executors_do_not_stop() {
    let (platform, dropped) = start(3).await;
    for (number, word) in [(1, "deaf"), (2, "mute and deaf"), (3, "blocks")] {
        platform.assign(number, job(word)).await;
    }
    SystemClock::default().sleep(Duration::from_millis(200)).await;
    let ended = SystemClock::default().timeout(Duration::from_secs(8), platform.kill()).await;
    ended.expect("an executor keeps the agent from ending");
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn output_after_the_end_is_not_counted() {
    let (mut platform, _) = start(1).await;
    platform.assign(1, job("writes on")).await;
    let (_, report) = platform.report().await;
    assert_eq!((report.outcome, report.log_end), (Outcome::Succeeded, platform.log_seen));
    runs_on(&mut platform).await;
    assert_eq!(platform.stdout.len() as u64, report.log_end * 5, "output arrived after the report");
    platform.kill().await;
}

#[tokio::test]
async fn a_job_is_not_given_up_while_its_remaining_output_waits() {
    let (mut platform, _) = start(1).await;
    // Its process ends in time with more output than may be unacknowledged: the rest stays in its pipe.
    let spec = JobSpec::shell("head -c 1100000 /dev/zero").timeout(Duration::from_millis(500));
    platform.assign(1, spec.kill_grace(Duration::from_millis(100))).await;
    let mut batches = Vec::new();
    SystemClock::default().sleep(Duration::from_millis(2500)).await;
    while let Ok(message) = platform.from.try_recv() {
        if let Some(FromAgent::LogBatch(batch)) = message.body {
            batches.push(batch);
        }
    }
    for batch in batches {
        platform.on_logs(batch).await;
    }
    let (_, report) = platform.report().await;
    assert_eq!((report.outcome, platform.stdout.len()), (Outcome::Succeeded, 1_100_000));
    platform.kill().await;
}
