//! Scenario of one simulation: random jobs, faults, cancels and restarts, then a calm phase in which every job must
//! end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hodei_core::id::{AttemptId, JobId};
use hodei_core::job::{Backoff, JobSpec, JobStatus, RetryPolicy};
use hodei_core::port::{Clock, ClockExt, IdGenerator, LogBody, LogStore};
use hodei_core::worker::Lifetime;

use super::Report;
use super::dice::{Dice, RandomFaults};
use super::observer::{ObservedStore, Seen};
use crate::bus::memory::MemoryEventBus;
use crate::clock::ManualClock;
use crate::config::Settings;
use crate::error::Error;
use crate::ids::SeededIds;
use crate::layer::chaos::{ChaosBus, ChaosLogStore, ChaosStore};
use crate::platform::Hodei;
use crate::provider::test::{ScriptedJob, TestCloud, TestWorkerProvider, WorkerFault};
use crate::storage::memory::{MemoryLogStore, MemoryStore};

/// The parts that outlive a platform.
struct Scene {
    dice: Dice,
    clock: Arc<ManualClock>,
    ids: Arc<dyn IdGenerator>,
    store: ObservedStore,
    cloud: TestCloud,
    calm: Arc<AtomicBool>,
    fault_rate: f64,
    restarts: u32,
}

/// Time within which all jobs must end in the calm phase.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) async fn run(
    seed: u64,
    clock: ManualClock,
    broken: Arc<Mutex<Option<String>>>,
) -> Result<Report, String> {
    let dice = Dice::new(seed);
    let (clock, ids) = (Arc::new(clock), Arc::new(SeededIds::new(seed ^ 0x5EED)));
    let calm = Arc::new(AtomicBool::new(false));
    let cloud = {
        let (dice, calm) = (dice.clone(), calm.clone());
        let lifetime = Lifetime {
            max_jobs: dice.chance(0.2).then(|| 1 + dice.below(3) as u32),
            idle: Some(Duration::from_millis(100) + dice.millis(3000)),
            max_age: dice.chance(0.2).then(|| Duration::from_secs(1) + dice.millis(3000)),
        };
        let cloud = TestCloud::new(clock.clone(), ids.clone(), move |_| worker_fault(&dice, &calm));
        cloud.with_profile(|profile| profile.lifetime = lifetime)
    };
    let inner = MemoryStore::new(ids.uuid(clock.now()));
    let seen = Arc::new(Mutex::new(Seen { trace: 0xCBF2_9CE4_8422_2325, ..Seen::default() }));
    let store = ObservedStore { inner, logs: MemoryLogStore::default(), cloud: cloud.clone(), seen, broken };
    let fault_rate = [0.0, 0.02, 0.1][dice.below(3) as usize];
    let mut scene = Scene { dice, clock, ids, store, cloud, calm, fault_rate, restarts: 0 };
    let result = scene.play().await;
    scene.cloud.end().await;
    result?;
    let seen = scene.store.seen();
    let (trace, events, jobs, kinds) = (seen.trace, seen.events, seen.acknowledged.len(), seen.kinds.clone());
    Ok(Report { trace, events, kinds, jobs, workers: scene.cloud.created(), restarts: scene.restarts })
}

fn worker_fault(dice: &Dice, calm: &AtomicBool) -> WorkerFault {
    if calm.load(Ordering::Relaxed) || dice.chance(0.5) {
        return WorkerFault::None;
    }
    match dice.below(8) {
        0 => WorkerFault::Slow(dice.millis(2000)),
        1 => WorkerFault::Refused,
        2 => WorkerFault::SaysFailed,
        3 => WorkerFault::Absent,
        4 => WorkerFault::Dies(dice.millis(3000)),
        5 => WorkerFault::Vanishes(dice.millis(3000)),
        6 => WorkerFault::Twice,
        _ => WorkerFault::Lies,
    }
}

impl Scene {
    async fn play(&mut self) -> Result<(), String> {
        self.cloud.break_streams(self.dice.chance(0.5).then_some(30));
        let mut platform = self.platform().await?;
        let count = 5 + self.dice.below(25);
        let mut submitted: Vec<JobId> = Vec::new();
        for _ in 0..count {
            self.clock.sleep(self.dice.millis(200)).await;
            self.submit(&platform, &mut submitted).await;
            if self.dice.chance(0.15) && !submitted.is_empty() {
                let victim = submitted[self.dice.below(submitted.len() as u64) as usize];
                // The job may have ended, or the store may fail: either answer is fine.
                let _ = platform.jobs().cancel(victim).await;
            }
            if self.dice.chance(0.05) {
                drop(platform);
                self.restarts += 1;
                self.clock.sleep(self.dice.millis(1500)).await;
                platform = self.platform().await?;
            }
            if self.store.is_broken() {
                return Ok(());
            }
        }
        self.calm.store(true, Ordering::Relaxed);
        self.cloud.break_streams(None);
        let settled = self.clock.timeout(SETTLE_TIMEOUT, self.settle(&platform, &submitted)).await;
        match settled {
            Ok(settled) => settled?,
            Err(_) => return Err(self.stuck(&platform).await),
        }
        self.store.check(None).await;
        platform.shutdown().await;
        Ok(())
    }

    async fn platform(&self) -> Result<Hodei, String> {
        let faults = || {
            let (dice, calm) = (self.dice.clone(), self.calm.clone());
            Arc::new(RandomFaults { dice, calm, rate: self.fault_rate })
        };
        let store = ChaosStore::new(Arc::new(self.store.clone()), self.clock.clone(), faults());
        let logs = ChaosLogStore::new(Arc::new(self.store.logs.clone()), self.clock.clone(), faults());
        let bus = ChaosBus::new(Arc::new(MemoryEventBus::default()), faults());
        let cloud = self.cloud.clone();
        for _ in 0..20 {
            let cloud = cloud.clone();
            let started = Hodei::builder()
                .store(Arc::new(store.clone()))
                .log_store(Arc::new(logs.clone()))
                .event_bus(Arc::new(bus.clone()))
                .clock(self.clock.clone())
                .ids(self.ids.clone())
                .settings(Settings::quick())
                .provider(move |context| TestWorkerProvider::new(&context, &cloud))
                .start()
                .await;
            match started {
                Ok(platform) => return Ok(platform),
                // Retry, as an operator does after a start on a failing store.
                Err(error) if error.is_retryable() => self.clock.sleep(Duration::from_millis(100)).await,
                Err(error) => return Err(format!("the platform does not start: {error}")),
            }
        }
        Err("the platform does not start".into())
    }

    async fn submit(&self, platform: &Hodei, submitted: &mut Vec<JobId>) {
        let id = JobId::from_uuid(self.ids.uuid(self.clock.now()));
        let spec = self.spec();
        // A client without an answer retries with the same id.
        for _ in 0..3 {
            match platform.submit_as(id, spec.clone()).await {
                Ok(job) => {
                    self.store.seen().acknowledged.insert(job.id());
                    submitted.push(job.id());
                    return;
                }
                Err(Error::Store(_)) => self.clock.sleep(Duration::from_millis(20)).await,
                Err(_) => return,
            }
        }
    }

    fn spec(&self) -> JobSpec {
        let dice = &self.dice;
        let lines = if dice.chance(0.5) { dice.below(6) as u32 } else { 0 };
        let failures = if dice.chance(0.2) { dice.below(3) as u32 } else { 0 };
        let exit = if dice.chance(0.1) { 3 } else { 0 };
        let mut spec = ScriptedJob { run: dice.millis(1500), lines, exit, failures }.spec();
        if dice.chance(0.3) {
            let backoff = Backoff { initial: dice.millis(500), max: Duration::from_secs(2) };
            spec = spec.retry(RetryPolicy { max: dice.below(3) as u32, backoff, ..RetryPolicy::default() });
        } else if dice.chance(0.3) {
            spec = spec.at_most_once();
        }
        if dice.chance(0.2) {
            spec = spec.concurrency(["a", "b"][dice.below(2) as usize], 1 + dice.below(2) as u32);
        }
        if dice.chance(0.1) {
            spec = spec.timeout(Duration::from_millis(1 + dice.below(1000)));
        }
        if dice.chance(0.1) {
            spec = spec.not_before(self.clock.now() + dice.millis(2000));
        }
        if dice.chance(0.1) {
            spec = spec.start_by(self.clock.now() + Duration::from_secs(3) + dice.millis(2000));
        }
        spec = spec.priority(hodei_core::job::Priority(dice.below(3) as i32 - 1));
        spec.build().expect("the scenario builds valid specs")
    }

    async fn settle(&self, platform: &Hodei, submitted: &[JobId]) -> Result<(), String> {
        for id in submitted {
            let job = platform.job(*id).wait().await.map_err(|error| format!("job {id}: {error}"))?;
            if job.status() != JobStatus::Succeeded {
                continue;
            }
            let script = ScriptedJob::of(job.spec()).ok_or("a job has a spec of another test")?;
            let expected = script.output(job.attempt());
            let found = self.output(job.attempt_id()).await;
            if found != expected {
                return Err(format!("P5: job {id} wrote {expected:?}, but {found:?} is stored"));
            }
        }
        Ok(())
    }

    async fn output(&self, attempt: AttemptId) -> String {
        let records = self.store.logs.read(attempt, 0, usize::MAX).await.unwrap_or_default();
        let text = |body| match body {
            LogBody::Chunk { bytes, .. } => String::from_utf8_lossy(&bytes).into_owned(),
            LogBody::Gap(gap) => format!("<gap {gap:?}>"),
        };
        records.into_iter().map(|record| text(record.body)).collect()
    }

    async fn stuck(&self, platform: &Hodei) -> String {
        format!(
            "jobs have not ended after {SETTLE_TIMEOUT:?} without faults: {:?}",
            platform.queue().status().await
        )
    }
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene").field("fault_rate", &self.fault_rate).finish_non_exhaustive()
    }
}
