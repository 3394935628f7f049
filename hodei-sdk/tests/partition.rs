//! Agents and a server that are partitioned for a while.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "support/output.rs"]
mod output;
#[path = "support/served.rs"]
mod served;
#[path = "support/valve.rs"]
mod valve;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hodei_sdk::id::{StoreId, WorkerId};
use hodei_sdk::port::{Clock, ProvidedWorker, ProviderError, WorkerProvider};
use hodei_sdk::providers::ProviderProfile;
use hodei_sdk::worker::WorkerOrder;
use hodei_sdk::{
    Compression, Hodei, JobHandle, JobSpec, JobStatus, ProcessOptions, ProcessProvider, Settings, SystemClock,
};
use output::output;
use rustix::process::{Pid, Signal, kill_process};
use served::{Served, agent, within};
use valve::Valve;

/// Directions that stay open, to and from the server: none, from it, to it.
const CUTS: [[bool; 2]; 3] = [[false, false], [false, true], [true, false]];

/// A provider whose machine is unreachable as well, so that it cannot end its workers.
#[derive(Debug)]
struct OutOfReach {
    inner: ProcessProvider,
    is_away: Arc<AtomicBool>,
}

#[async_trait]
impl WorkerProvider for OutOfReach {
    fn profile(&self) -> ProviderProfile {
        self.inner.profile()
    }

    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        self.inner.create(order).await
    }

    async fn recover(&self, owner: StoreId) -> Result<(), ProviderError> {
        self.inner.recover(owner).await
    }

    async fn destroy(&self, worker: WorkerId, grace: Duration) -> Result<(), ProviderError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(ProviderError::Unavailable("its machine does not answer".into()));
        }
        self.inner.destroy(worker, grace).await
    }

    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        self.inner.list(owner).await
    }
}

/// A server, and agents that connect to it over a valve.
struct Split {
    served: Served,
    valve: Valve,
    is_away: Arc<AtomicBool>,
}

impl Split {
    async fn start(lease: Duration) -> Self {
        Self::compressing(lease, Compression::Auto).await
    }

    async fn compressing(lease: Duration, compression: Compression) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let valve = Valve::before(listener.local_addr().unwrap().port()).await;
        let options = ProcessOptions { compression, ..ProcessOptions::new(agent(), valve.url.clone()) };
        let is_away = Arc::new(AtomicBool::new(false));
        let away = is_away.clone();
        let make = |context| OutOfReach { inner: ProcessProvider::new(context, options), is_away: away };
        let mut settings = Settings::quick();
        settings.lease = lease;
        let hodei = Hodei::builder().settings(settings).provider(make).start().await.unwrap();
        Self { served: Served::of(listener, hodei), valve, is_away }
    }

    async fn submit(&self, line: String) -> JobHandle {
        self.served.hodei.submit(JobSpec::shell(line).build().unwrap()).await.unwrap()
    }
}

async fn pause(millis: u64) {
    SystemClock::default().sleep(Duration::from_millis(millis)).await;
}

async fn wait_for_file(path: &Path) {
    let found = async {
        while !path.exists() {
            pause(10).await;
        }
    };
    within(found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_a_second_loses_no_attempt_and_no_output() {
    for open in CUTS {
        let split = Split::start(Duration::from_secs(10)).await;
        let dir = tempfile::tempdir().unwrap();
        let begun = dir.path().join("begun");
        let line = "for n in $(seq 300); do echo line $n; sleep 0.01; done";
        let job = split.submit(format!("touch {}; {line}", begun.display())).await;
        wait_for_file(&begun).await;
        split.valve.set(open);
        pause(1000).await;
        split.valve.set([true, true]);
        let ended = within(job.wait()).await.unwrap();
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, 1), "{open:?}");
        let expected: String = (1..=300).map(|n| format!("line {n}\n")).collect();
        assert!(within(output(&job)).await == expected, "{open:?}");
        assert_eq!(ended.tally().infrastructure, 0);
        split.served.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_lease_one_new_attempt_runs_and_the_old_agent_ends_the_first() {
    for open in CUTS {
        let split = Split::start(Duration::from_secs(1)).await;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // The first attempt runs until it is killed, and touches a file every 50 ms.
        let line = format!(
            "cd {}; echo $HODEI_ATTEMPT >> starts; [ $HODEI_ATTEMPT = 1 ] || {{ echo second; exit 0; }}; \
             touch begun; while [ ! -e end ]; do echo first; touch alive; sleep 0.05; done",
            dir.path().display()
        );
        let job = split.submit(line).await;
        wait_for_file(&at("begun")).await;
        let running = async {
            while job.get().await.unwrap().status() != JobStatus::Running {
                pause(10).await;
            }
        };
        within(running).await;
        split.is_away.store(true, Ordering::SeqCst);
        split.valve.set(open);
        if !open[0] {
            // The new worker needs this direction as well. It is opened, also for the old agent, once the platform has
            // given up the first attempt.
            let lost = async {
                while job.get().await.unwrap().attempt() == 1
                    && job.get().await.unwrap().status() == JobStatus::Running
                {
                    pause(20).await;
                }
            };
            within(lost).await;
            assert!(at("alive").exists(), "the first attempt is still running");
            let _ = std::fs::remove_file(at("alive"));
            pause(200).await;
            assert!(at("alive").exists(), "it keeps running while it is unreachable");
        } else {
            // Its heartbeats arrive, so it is not given up although it receives nothing.
            pause(3000).await;
            assert_eq!(job.get().await.unwrap().attempt(), 1);
            std::fs::write(at("end"), "").unwrap();
        }
        split.valve.set([true, true]);
        let opened = SystemClock::default().now();
        let ended = within(job.wait()).await.unwrap();
        let attempts = if open[0] { 1 } else { 2 };
        assert_eq!((ended.status(), ended.attempt()), (JobStatus::Succeeded, attempts), "{open:?}");
        let starts = std::fs::read_to_string(at("starts")).unwrap();
        assert_eq!(starts, if open[0] { "1\n" } else { "1\n2\n" }, "{open:?}");
        if !open[0] {
            let text = within(output(&job)).await;
            assert!(text.ends_with("second\n"), "{text}");
            loop {
                let _ = std::fs::remove_file(at("alive"));
                pause(200).await;
                if !at("alive").exists() {
                    break;
                }
                let waited = SystemClock::default().now().as_micros() - opened.as_micros();
                assert!(waited < 5_000_000, "its agent knows that it is fenced, but the attempt still runs");
            }
        }
        split.is_away.store(false, Ordering::SeqCst);
        split.served.end().await;
    }
}

/// Returns the process of the agent of a worker.
fn agent_of(worker: WorkerId) -> Pid {
    let is_agent = |pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains("HODEI_ORDER_ID=")
    };
    let mut processes = hodei_agent::marked_processes(&[format!("HODEI_WORKER_ID={worker}")]).into_iter();
    Pid::from_raw(processes.find(is_agent).unwrap()).unwrap()
}

/// Stops an agent beyond its lease. Its reports, sent when it continues, are refused.
async fn stop_beyond_the_lease(split: &Split) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let line = format!(
        "cd {}; touch begun.$HODEI_ATTEMPT; while [ ! -e end.$HODEI_ATTEMPT ]; do echo $HODEI_ATTEMPT; \
         sleep 0.02; done; echo late $HODEI_ATTEMPT; exit $((HODEI_ATTEMPT * 7 - 7))",
        dir.path().display()
    );
    let job = split.submit(line).await;
    wait_for_file(&at("begun.1")).await;
    let agent = agent_of(job.get().await.unwrap().worker().unwrap());
    split.is_away.store(true, Ordering::SeqCst);
    kill_process(agent, Signal::STOP).unwrap();
    wait_for_file(&at("begun.2")).await;
    std::fs::write(at("end.1"), "").unwrap();
    pause(100).await;
    kill_process(agent, Signal::CONT).unwrap();
    pause(300).await;
    let now = job.get().await.unwrap();
    assert_eq!((now.status(), now.attempt()), (JobStatus::Running, 2), "the first one has not ended the job");
    std::fs::write(at("end.2"), "").unwrap();
    let ended = within(job.wait()).await.unwrap();
    assert_eq!((ended.status(), ended.attempt()), (JobStatus::Failed, 2));
    assert_eq!(ended.ending().unwrap().run.as_ref().unwrap().exit_code, Some(7));
    let text = within(output(&job)).await;
    assert!(text.ends_with("2\nlate 2\n") && !text.contains("late 1"), "{text}");
    split.is_away.store(false, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_an_agent_stopped_beyond_its_lease_are_refused() {
    let times = std::env::var("HODEI_STOPS").map_or(2, |times| times.parse().unwrap());
    let split = Split::start(Duration::from_secs(1)).await;
    for _ in 0..times {
        stop_beyond_the_lease(&split).await;
    }
    println!("{times} agents were stopped, and none of their late writes was stored");
    split.served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_over_a_network_is_compressed_if_that_saves_bytes() {
    let text = "seq 200000; echo end";
    let noise = "head -c 1000000 /dev/urandom | tee $HODEI_WORKSPACE/noise | md5sum >&2; cat noise";
    let mut sent = Vec::new();
    for compression in [Compression::Always, Compression::Auto] {
        let split = Split::compressing(Duration::from_secs(10), compression).await;
        let job = split.submit(text.into()).await;
        within(job.wait()).await.unwrap();
        let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect::<String>() + "end\n";
        assert!(within(output(&job)).await == expected, "{compression:?}");
        let of_text = split.valve.sent();
        let job = split.submit(noise.into()).await;
        within(job.wait()).await.unwrap();
        assert!(within(bytes(&job)).await >= 1_000_000);
        sent.push((of_text, split.valve.sent() - of_text));
        split.served.end().await;
    }
    let [(packed, packed_noise), (plain, plain_noise)] = sent[..] else { panic!("{sent:?}") };
    assert!(packed * 2 < plain, "text: {packed} bytes compressed, {plain} as it is");
    assert!(packed_noise < plain_noise + 50_000, "noise: {packed_noise} and {plain_noise} bytes");
}

/// Returns the number of bytes of a job's output.
async fn bytes(job: &JobHandle) -> usize {
    let (mut logs, mut bytes) = (job.logs(), 0);
    while let Some(item) = logs.next().await.unwrap() {
        if let hodei_sdk::LogItem::Record { record, .. } = item {
            bytes += record.bytes();
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_artifacts_of_an_attempt_share_a_connection() {
    let split = Split::start(Duration::from_secs(10)).await;
    assert_eq!(
        within(split.submit("true".into()).await.wait()).await.unwrap().status(),
        JobStatus::Succeeded
    );
    let before = split.valve.made();
    let spec = JobSpec::shell("mkdir out; cd out; seq 200 | xargs touch").output("out".parse().unwrap());
    let job = split.served.hodei.submit(spec.build().unwrap()).await.unwrap();
    let ended = within(job.wait()).await.unwrap();
    assert_eq!((ended.status(), ended.artifacts().len()), (JobStatus::Succeeded, 200));
    let made = split.valve.made() - before;
    assert!((1..=3).contains(&made), "{made} connections for 200 files");
    split.served.end().await;
}
