//! Random walks: a store and a small model of it execute the same steps, and every read of them must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hodei_core::audit;
use hodei_core::decision::{Aggregate, AggregateId, Decision};
use hodei_core::event::LogGap;
use hodei_core::id::{AttemptId, EventId, JobId, WorkerId};
use hodei_core::job::{AttemptReport, FailureCause, Job, JobInput, JobStatus, Loss, Outcome, TenantId, step};
use hodei_core::port::{
    CommitError, FeedCursor, Fence, JobFilter, LogBody, LogEnd, LogError, LogRecord, LogState, LogStore,
    LogStream, Store, Write,
};
use hodei_core::time::Timestamp;

use super::world::{Maker, command, feed, job};
use crate::ids::SeededIds;

/// Random decisions of a walk.
struct Dice(SeededIds);

impl Dice {
    fn below(&self, limit: usize) -> usize {
        (self.0.random() % limit.max(1) as u64) as usize
    }

    fn pick<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        among.get(self.below(among.len()))
    }
}

/// Expected content of a store.
#[derive(Default)]
struct Model {
    jobs: BTreeMap<JobId, Arc<Job>>,
    keys: BTreeMap<(TenantId, String), JobId>,
    events: BTreeMap<AggregateId, Vec<EventId>>,
    in_order: Vec<EventId>,
}

impl Model {
    /// Applies a write; `refused` holds the jobs with an earlier conflict in the same batch.
    fn take(&mut self, write: &Write, refused: &mut BTreeSet<JobId>) -> Result<(), CommitError> {
        let Aggregate::Job(next) = &write.next else { panic!("the walk writes jobs") };
        let actual = self.jobs.get(&next.id()).map(|job| job.version());
        if actual != write.expect.version() || refused.contains(&next.id()) {
            refused.insert(next.id());
            return Err(CommitError::Conflict { actual });
        }
        if let (None, Some(key)) = (actual, next.spec().idempotency_key()) {
            let key = (next.tenant().clone(), key.to_owned());
            if let Some(existing) = self.keys.get(&key) {
                return Err(CommitError::Duplicate { existing: *existing });
            }
            self.keys.insert(key, next.id());
        }
        self.jobs.insert(next.id(), next.clone());
        let ids = write.events.iter().map(|event| event.id);
        self.events.entry(AggregateId::Job(next.id())).or_default().extend(ids.clone());
        self.in_order.extend(ids);
        Ok(())
    }

    fn forget(&mut self, jobs: &[JobId]) {
        for id in jobs.iter().filter(|id| self.jobs[id].is_terminal()).copied().collect::<Vec<_>>() {
            self.jobs.remove(&id);
            let gone: BTreeSet<EventId> =
                self.events.remove(&AggregateId::Job(id)).into_iter().flatten().collect();
            self.in_order.retain(|event| !gone.contains(event));
        }
    }
}

/// One walk over a store's jobs.
struct Walk<'a> {
    maker: &'a Maker,
    dice: Dice,
    store: &'a dyn Store,
    model: Model,
    workers: Vec<WorkerId>,
    /// Earlier writes, to be repeated as stale ones.
    old: Vec<Write>,
}

/// Checks a store along the walk of this seed.
pub(super) async fn walk(maker: &Maker, store: &dyn Store, seed: u64) {
    let workers = (0..4).map(|_| WorkerId::from_uuid(maker.uuid())).collect();
    let dice = Dice(SeededIds::new(seed));
    let mut walk = Walk { maker, dice, store, model: Model::default(), workers, old: Vec::new() };
    for round in 0..120 {
        walk.write_batch().await;
        if round % 10 == 9 {
            walk.compare().await;
        }
        if round % 40 == 39 {
            walk.forget().await;
        }
    }
    walk.compare().await;
}

impl Walk<'_> {
    async fn write_batch(&mut self) {
        let mut batch: Vec<Write> = Vec::new();
        let mut ahead: BTreeMap<JobId, Arc<Job>> = BTreeMap::new();
        for _ in 0..1 + self.dice.below(8) {
            let write = match self.dice.below(10) {
                0..4 => self.maker.write(&self.submit()),
                4..9 => match self.next_step(&ahead) {
                    Some(decision) => self.maker.write(&decision),
                    None => continue,
                },
                _ => match self.dice.pick(&self.old) {
                    Some(stale) => stale.clone(),
                    None => continue,
                },
            };
            // Later items of a batch may build on earlier ones.
            if let Aggregate::Job(next) = &write.next
                && next.version() > ahead.get(&next.id()).map_or(0, |job| job.version())
            {
                ahead.insert(next.id(), next.clone());
            }
            batch.push(write);
        }
        let mut refused = BTreeSet::new();
        let expected: Vec<_> = batch.iter().map(|write| self.model.take(write, &mut refused)).collect();
        let outcomes = self.store.commit(Fence::None, &batch).await.expect("a commit");
        assert_eq!(outcomes, expected, "the store and its model decide alike");
        // Keep only stored writes: a refused write may have a matching version later, with another meaning.
        let stored = batch.into_iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
        self.old.extend(stored.map(|(write, _)| write));
    }

    fn submit(&self) -> Decision {
        let tenant = ["t", "u"][self.dice.below(2)];
        let spec = command().label("parity", ["even", "odd"][self.dice.below(2)]);
        let key = format!("key {}", self.dice.below(20));
        self.maker.submit(tenant, if self.dice.below(4) == 0 { spec.idempotency_key(key) } else { spec })
    }

    /// Returns a legal step of some job, after the earlier writes of the batch.
    fn next_step(&self, ahead: &BTreeMap<JobId, Arc<Job>>) -> Option<Decision> {
        let ids: Vec<JobId> = self.model.jobs.keys().chain(ahead.keys()).copied().collect();
        let id = self.dice.pick(&ids)?;
        let current = ahead.get(id).or_else(|| self.model.jobs.get(id))?;
        let attempt = current.attempt();
        let report = AttemptReport {
            outcome: [Outcome::Succeeded, Outcome::Failed(FailureCause::Exit(1)), Outcome::TimedOut]
                [self.dice.below(3)]
            .clone(),
            exit_code: Some(1),
            started_at: Some(Timestamp::from_micros(3)),
            finished_at: Timestamp::from_micros(4),
            log_end: 1,
            usage: None,
            artifacts: Vec::new(),
            interrupted: false,
        };
        let loss = Loss {
            cause: FailureCause::Lost("x".into()),
            blame: hodei_core::job::Blame::Alone,
            interrupted: self.dice.below(2) == 0,
            log_end: 0,
        };
        let worker = *self.dice.pick(&self.workers)?;
        let input = match self.dice.below(6) {
            0..2 => JobInput::Assign { worker, dispatch: 1, score: hodei_core::decision::Score::default() },
            2 => JobInput::Start { attempt, started_at: Timestamp::from_micros(3) },
            3 => JobInput::Finish { attempt, report, gap: None, jitter: 0.5 },
            4 => JobInput::Lose { attempt, loss, jitter: 0.5 },
            _ => JobInput::Cancel,
        };
        step(Some(current), input, Timestamp::from_micros(9)).ok()
    }

    async fn forget(&mut self) {
        let ended: Vec<JobId> =
            self.model.jobs.values().filter(|job| job.is_terminal()).map(|job| job.id()).collect();
        let open = self.model.jobs.values().find(|job| !job.is_terminal()).map(|job| job.id());
        // Half of the ended jobs, and an open one, which must stay.
        let wanted: Vec<JobId> = ended.into_iter().step_by(2).chain(open).collect();
        self.store.forget(&wanted, Timestamp::EPOCH).await.expect("an end");
        self.model.forget(&wanted);
        self.compare().await;
    }

    async fn compare(&self) {
        let (model, store) = (&self.model, self.store);
        let ids: Vec<JobId> = model.jobs.keys().rev().copied().collect();
        let found = store.jobs(&ids).await.expect("a read");
        let expected: Vec<_> = ids.iter().map(|id| model.jobs.get(id).cloned()).collect();
        assert_eq!(found, expected, "jobs come in the order of the request");
        let open = model.jobs.values().filter(|job| !job.is_terminal());
        let open: Vec<_> = open.map(|job| Arc::new(job.listing())).collect();
        assert_eq!(store.open_jobs(None, usize::MAX >> 1).await.expect("a read"), open);
        for worker in &self.workers {
            let has = |job: &&Arc<Job>| job.assignment().is_some_and(|at| at.worker == *worker);
            let expected: Vec<_> = model.jobs.values().filter(has).cloned().collect();
            assert_eq!(store.jobs_of_workers(&[*worker]).await.expect("a read"), expected);
        }
        for ((tenant, key), existing) in &model.keys {
            assert_eq!(store.job_by_key(tenant, key).await.expect("a read"), Some(*existing));
        }
        self.compare_lists().await;
        self.compare_events().await;
    }

    async fn compare_lists(&self) {
        let statuses =
            JobStatus::ALL[self.dice.below(8)..].iter().copied().take(self.dice.below(3)).collect();
        let labels = ["even", "odd"].map(|parity| ("parity".to_owned(), parity.to_owned()));
        let filter = JobFilter {
            tenant: TenantId::new(["t", "u"][self.dice.below(2)]),
            statuses,
            labels: labels.into_iter().take(self.dice.below(2)).collect(),
            limit: 1 + self.dice.below(7),
            after: None,
        };
        let expected = self.model.jobs.values().rev().filter(|job| filter.matches(job));
        let expected: Vec<_> = expected.map(|job| Arc::new(job.listing())).collect();
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.list_jobs(&JobFilter { after, ..filter.clone() }).await.expect("a read");
            assert!(page.jobs.len() <= filter.limit);
            listed.extend(page.jobs);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(listed, expected, "a list by {filter:?}");
    }

    async fn compare_events(&self) {
        let feed = feed(self.store, &FeedCursor::default(), self.model.in_order.len()).await.events;
        let ids: Vec<EventId> = feed.iter().map(|event| event.id).collect();
        assert_eq!(ids, self.model.in_order, "every event once, in the order of commits");
        assert!(feed.is_sorted_by(|one, next| one.sequence < next.sequence));
        for (aggregate, expected) in &self.model.events {
            let history = self.store.history(*aggregate).await.expect("a read");
            let ids: Vec<EventId> = history.iter().map(|event| event.id).collect();
            assert_eq!(ids, *expected);
            let AggregateId::Job(id) = aggregate else { continue };
            assert_eq!(audit::fold_job(&history).as_ref(), self.model.jobs.get(id).map(|job| &**job));
        }
    }
}

/// Expected log of one attempt.
#[derive(Default)]
struct LogModel {
    records: Vec<LogRecord>,
    end: Option<LogEnd>,
}

impl LogModel {
    fn next(&self) -> u64 {
        self.records.last().map_or(0, LogRecord::next)
    }

    fn append(&mut self, records: &[LogRecord]) -> Result<u64, String> {
        for record in records {
            let Some(record) = record.rest(self.next()) else { continue };
            if self.end.is_some() {
                return Err("sealed".into());
            }
            if record.sequence > self.next() {
                return Err(format!("hole {} {}", self.next(), record.sequence));
            }
            self.records.push(record);
        }
        Ok(self.next())
    }

    fn state(&self) -> LogState {
        let bytes = self.records.iter().map(|record| record.bytes() as u64).sum();
        LogState { next: self.next(), bytes, end: self.end }
    }
}

/// Checks a log store along the walk of this seed.
pub(super) async fn walk_logs(maker: &Maker, store: &dyn LogStore, seed: u64) {
    let dice = Dice(SeededIds::new(seed));
    let attempts: Vec<AttemptId> =
        (1..=6).map(|number| AttemptId { job: JobId::from_uuid(maker.uuid()), number }).collect();
    let mut model: BTreeMap<AttemptId, LogModel> = BTreeMap::new();
    for _ in 0..400 {
        let Some(attempt) = dice.pick(&attempts).copied() else { return };
        let log = model.entry(attempt).or_default();
        match dice.below(20) {
            0 => {
                let end = [LogEnd::Complete, LogEnd::Torn][dice.below(2)];
                store.seal(attempt, end).await.expect("an end");
                log.end.get_or_insert(end);
            }
            1 if log.end.is_some() => {
                store.remove(&[attempt]).await.expect("an end");
                // A removed log is as if it had never existed; it has no further writers, so the walk writes no more to
                // it.
                model.insert(attempt, LogModel { end: Some(LogEnd::Torn), ..LogModel::default() });
                let state = store.state(attempt).await.expect("a state");
                assert_eq!(state, LogState { next: 0, bytes: 0, end: None }, "a removed log has no state");
                store.seal(attempt, LogEnd::Torn).await.expect("an end");
            }
            2..14 => {
                let records = some_records(&dice, log.next());
                let expected = log.append(&records);
                let got = store.append(attempt, &records).await.map_err(|error| match error {
                    LogError::Sealed => "sealed".to_owned(),
                    LogError::OutOfOrder { expected, got } => format!("hole {expected} {got}"),
                    other => panic!("an append gave {other:?}"),
                });
                assert_eq!(got, expected);
            }
            _ => compare_log(&dice, store, attempt, log).await,
        }
    }
    for (attempt, log) in &model {
        compare_log(&dice, store, *attempt, log).await;
    }
}

/// Returns a few records that begin near the end of the log: some are stored already, some would leave a hole.
fn some_records(dice: &Dice, next: u64) -> Vec<LogRecord> {
    let mut sequence = match dice.below(8) {
        0 => next + 1 + dice.below(3) as u64,
        1..3 => next.saturating_sub(dice.below(4) as u64),
        _ => next,
    };
    let mut records = Vec::new();
    for _ in 0..dice.below(6) {
        let body = if dice.below(8) == 0 {
            let (to, bytes) = (sequence + 1 + dice.below(5) as u64, dice.below(3) as u64 * 1000);
            LogBody::Gap(LogGap { from: sequence, to, bytes })
        } else {
            let stream = [LogStream::Stdout, LogStream::Stderr][dice.below(2)];
            LogBody::Chunk { stream, bytes: vec![sequence as u8; dice.below(300)].into() }
        };
        let record = LogRecord { sequence, at: Timestamp::from_micros(dice.below(1 << 40) as i64), body };
        sequence = record.next();
        records.push(record);
    }
    records
}

async fn compare_log(dice: &Dice, store: &dyn LogStore, attempt: AttemptId, log: &LogModel) {
    assert_eq!(store.state(attempt).await.expect("a state"), log.state());
    let from = dice.below(log.next() as usize + 2) as u64;
    let most = [1, 200, 5_000, usize::MAX][dice.below(4)];
    let found = store.read(attempt, from, most).await.expect("a read");
    let expected: Vec<_> = log.records.iter().filter(|record| record.next() > from).cloned().collect();
    assert!(expected.starts_with(&found), "from {from}: {found:?} is not the start of {expected:?}");
    assert_eq!(found.is_empty(), expected.is_empty(), "at least one, if there is one");
    if most == usize::MAX {
        assert_eq!(found.len(), expected.len(), "all of it");
    }
}

/// Returns the names of a job's events.
pub(super) async fn event_names(store: &dyn Store, decision: &Decision) -> Vec<&'static str> {
    let history = store.history(AggregateId::Job(job(decision).id())).await.expect("a read");
    history.iter().map(|envelope| envelope.event.name()).collect()
}
