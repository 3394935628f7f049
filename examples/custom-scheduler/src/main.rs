//! A custom scheduler: a strategy that scores workers, and a scheduler that wraps another and inspects each plan.
//!
//! Prints the number of planned assignments, and the strategy that scored the last one.
#![allow(clippy::print_stdout, reason = "an example")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hodei_sdk::scheduling::{
    PlanDecision, QueuedJob, Scheduler, SchedulingContext, SchedulingStrategy, SmartScheduler, WorkerInfo,
};
use hodei_sdk::time::Timestamp;
use hodei_sdk::{Hodei, JobSpec};

/// Prefers the worker that got the most jobs so far, whose caches are warm.
#[derive(Debug)]
struct WarmestFirst;

impl SchedulingStrategy for WarmestFirst {
    fn name(&self) -> &'static str {
        "warmest_first"
    }

    fn score(&self, _: &QueuedJob<'_>, worker: &WorkerInfo, _: u32) -> f64 {
        let taken = f64::from(worker.worker.taken());
        taken / (taken + 1.0)
    }
}

/// Plans with an inner scheduler, and counts the assignments.
#[derive(Debug)]
struct Counting {
    inner: SmartScheduler,
    assigned: AtomicUsize,
    scored_by: Mutex<String>,
}

impl Scheduler for Counting {
    fn plan(&self, context: &SchedulingContext, now: Timestamp) -> Vec<PlanDecision> {
        let plan = self.inner.plan(context, now);
        for decision in &plan {
            if let PlanDecision::Assign { score, .. } = decision {
                self.assigned.fetch_add(1, Ordering::Relaxed);
                let name =
                    score.parts.first().map_or_else(|| "no strategy".into(), |(name, _)| name.to_string());
                *self.scored_by.lock().unwrap_or_else(PoisonError::into_inner) = name;
            }
        }
        plan
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let strategy: Arc<dyn SchedulingStrategy> = Arc::new(WarmestFirst);
    let inner = SmartScheduler::new([(strategy, 1.0)]);
    let scheduler = Arc::new(Counting {
        inner,
        assigned: AtomicUsize::new(0),
        scored_by: Mutex::new("no strategy".into()),
    });
    let hodei = Hodei::builder().scheduler(scheduler.clone()).start().await?;

    let specs = (0..20).map(|_| JobSpec::command(["true"]).build()).collect::<Result<Vec<_>, _>>()?;
    for job in hodei.submit_batch(specs).await? {
        job?.wait().await?;
    }
    let scored_by = scheduler.scored_by.lock().unwrap_or_else(PoisonError::into_inner).clone();
    println!("{} assignments, scored by {scored_by}", scheduler.assigned.load(Ordering::Relaxed));
    hodei.shutdown().await;
    Ok(())
}
