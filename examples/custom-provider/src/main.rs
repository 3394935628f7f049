//! A provider that creates a new worker for each job, in this process and with its own labels.
//!
//! A provider never runs a job: it starts an agent, which connects through the door of the context. Prints
//! `3 jobs on 3 workers`.
#![allow(clippy::print_stdout, reason = "an example")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hodei_agent::{Agent, AgentConfig, JobExecutor, Marks, clear_leftovers_of, kill_marked};
use hodei_sdk::id::{OrderId, StoreId, WorkerId};
use hodei_sdk::job::Labels;
use hodei_sdk::port::{ClockExt, ProvidedWorker, ProviderError, WorkerProvider};
use hodei_sdk::providers::ProviderProfile;
use hodei_sdk::secret::SecretPattern;
use hodei_sdk::worker::{Lifetime, WorkerCapacity, WorkerOrder};
use hodei_sdk::{DoorConnector, Hodei, JobSpec, ProviderContext};
use tokio_util::sync::CancellationToken;

/// Creates a worker for each job.
#[derive(Debug)]
struct OneShotProvider {
    context: ProviderContext,
    running: Arc<Mutex<BTreeMap<WorkerId, Running>>>,
}

#[derive(Debug, Clone)]
struct Running {
    order: OrderId,
    kill: CancellationToken,
    gone: CancellationToken,
}

impl OneShotProvider {
    fn new(context: ProviderContext) -> Self {
        Self { context, running: Arc::default() }
    }

    /// Returns the marks by which the processes of a worker's jobs are found.
    fn marks(&self, worker: WorkerId) -> Marks {
        Marks::new(self.context.owner(), "one-shot", worker)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkerId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl WorkerProvider for OneShotProvider {
    fn profile(&self) -> ProviderProfile {
        ProviderProfile {
            name: "one-shot".into(),
            kind: "one-shot".into(),
            runs_images: false,
            capacity: WorkerCapacity { prefetch: 0, ..WorkerCapacity::slots(1) },
            labels: Labels::from([("fresh".to_owned(), "yes".to_owned())]),
            max_workers: 4,
            lifetime: Lifetime { max_jobs: Some(1), ..Lifetime::default() },
            secrets: vec![SecretPattern::any()],
            requires_limits: false,
        }
    }

    /// Creates a worker; a repeated order creates no second one.
    async fn create(&self, order: &WorkerOrder) -> Result<String, ProviderError> {
        let reference = format!("one-shot/{}", order.id);
        let running =
            Running { order: order.id, kill: CancellationToken::new(), gone: CancellationToken::new() };
        if self.running().contains_key(&order.worker) {
            return Ok(reference);
        }
        self.running().insert(order.worker, running.clone());
        let clock = self.context.clock();
        let incarnation = self.context.ids().uuid(clock.now());
        let connector = DoorConnector::new(self.context.door(), order.worker, incarnation);
        let executor = JobExecutor::new(clock.clone(), self.marks(order.worker));
        let config = AgentConfig { slots: 1, prefetch: 0, ..AgentConfig::default() };
        let agent = Agent::new(config, Arc::new(connector), Arc::new(executor), clock);
        let (workers, worker) = (self.running.clone(), order.worker);
        self.context.spawn("one-shot worker", move |stop| async move {
            // The agent ends its jobs first, whether the platform stops or only this worker is destroyed.
            let kill = running.kill.clone();
            let stopped = stop.clone();
            let mut run = std::pin::pin!(agent.run(kill.clone()));
            tokio::select! {
                _ = &mut run => {}
                () = stopped.cancelled() => { kill.cancel(); run.await; }
            }
            workers.lock().unwrap_or_else(PoisonError::into_inner).remove(&worker);
            running.gone.cancel();
        });
        Ok(reference)
    }

    /// Destroys a worker with all processes of its jobs; `Ok` if it is already gone.
    async fn destroy(&self, worker: WorkerId, grace: Duration) -> Result<(), ProviderError> {
        let running = self.running().get(&worker).cloned();
        let clock = self.context.clock();
        if let Some(running) = running {
            running.kill.cancel();
            let _ = clock.timeout(grace + Duration::from_secs(2), running.gone.cancelled()).await;
        }
        let marks = self.marks(worker);
        if kill_marked(&*clock, &marks.of_worker()).await {
            clear_leftovers_of(&marks, &std::env::temp_dir());
            Ok(())
        } else {
            Err(ProviderError::Unknown("processes of its jobs still run".into()))
        }
    }

    async fn list(&self, owner: StoreId) -> Result<Vec<ProvidedWorker>, ProviderError> {
        if owner != self.context.owner() {
            return Ok(Vec::new());
        }
        let listed = |(worker, running): (&WorkerId, &Running)| ProvidedWorker {
            worker: *worker,
            order: running.order,
            exited: None,
        };
        Ok(self.running().iter().map(listed).collect())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let hodei = Hodei::builder().provider(OneShotProvider::new).start().await?;
    let mut workers = BTreeSet::new();
    for _ in 0..3 {
        let spec = JobSpec::command(["true"]).constraint("fresh EQ yes".parse()?).build()?;
        workers.extend(hodei.submit(spec).await?.wait().await?.worker());
    }
    println!("3 jobs on {} workers", workers.len());
    hodei.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn the_provider_passes_the_conformance_suite() {
        hodei_sdk::testing::conformance::provider(super::OneShotProvider::new).await;
    }
}
