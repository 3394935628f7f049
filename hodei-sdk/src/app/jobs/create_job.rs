//! Creation of jobs: checks submissions, stores them, and answers repeats with the first job.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hodei_core::decision::{Aggregate, Decision};
use hodei_core::event::Actor;
use hodei_core::id::JobId;
use hodei_core::job::{Job, JobInput, JobSpec, Submission, TenantId, check_new, check_new_id, step};
use hodei_core::port::{CommitError, Fence, StoreError};
use hodei_core::provider::{Provider, refusal};

use crate::app::artifacts::service::ArtifactService;
use crate::app::commit::Committer;
use crate::app::ports::Ports;
use crate::app::secrets::SecretService;
use crate::error::{Error, JobKey};

/// Accepts submitted jobs.
#[derive(Debug, Clone)]
pub(crate) struct CreateJobUseCase {
    pub(crate) ports: Arc<Ports>,
    pub(crate) committer: Committer,
    pub(crate) known: Arc<Mutex<KnownProviders>>,
    pub(crate) secrets: SecretService,
    pub(crate) artifacts: ArtifactService,
}

/// Cached providers, for refusing a spec that no provider supports at once. The coordinator checks again with the
/// current ones.
#[derive(Debug, Default)]
pub(crate) struct KnownProviders {
    /// Monotonic time of the last read.
    read: Option<Duration>,
    providers: Vec<Arc<Provider>>,
}

/// Age up to which cached providers are used where reading them is a call to a database.
const PROVIDERS_MAX_AGE: Duration = Duration::from_secs(1);

/// A job to accept. The client chooses the id, so that a repeated submit returns the first job.
#[derive(Debug, Clone)]
pub(crate) struct NewJob {
    pub(crate) id: JobId,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) retry_of: Option<JobId>,
}

/// The answer to a submit.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) job: Arc<Job>,
    /// False when the id or the idempotency key belongs to a job that was submitted before.
    pub(crate) is_new: bool,
}

impl CreateJobUseCase {
    /// Accepts jobs independently: a refusal affects no other job. Returns once the accepted ones are stored.
    pub(crate) async fn create(
        &self,
        tenant: &TenantId,
        jobs: Vec<NewJob>,
    ) -> Result<Vec<Result<Accepted, Error>>, Error> {
        let providers = self.providers().await?;
        let specs: Vec<&JobSpec> = jobs.iter().map(|new| &*new.spec).collect();
        let mut secrets = self.secrets.refusals(tenant, &specs).await.into_iter();
        let mut artifacts = self.artifacts.refusals(tenant, &specs).await?.into_iter();
        let now = self.ports.clock.now();
        let mut seen = BTreeSet::new();
        let mut decisions: Vec<Decision> = Vec::new();
        let mut answers: Vec<Option<Error>> = Vec::new();
        for (number, new) in (0..).zip(&jobs) {
            let profiles = providers.iter().map(|provider| provider.profile());
            let misplaced =
                check_new_id(new.id, now).and_then(|()| check_new(&new.spec)).err().map(Error::Spec);
            let unsupported = misplaced.or_else(|| refusal(profiles, &new.spec).map(Error::Unsupported));
            answers.push(match unsupported.or(secrets.next().flatten()).or(artifacts.next().flatten()) {
                Some(refused) => Some(refused),
                None if !seen.insert(new.id) => {
                    Some(Error::AlreadyExists { key: JobKey::Id, existing: new.id })
                }
                None => {
                    let (id, spec) = (new.id, new.spec.clone());
                    let submission = Submission { id, tenant: tenant.clone(), spec, retry_of: new.retry_of };
                    // Callers choose the ids, so timestamps one microsecond apart keep the order of submission.
                    let at = now + Duration::from_micros(number);
                    let decision = step(None, JobInput::Submit(submission), at);
                    decisions.push(decision.map_err(|_| Error::Contended)?);
                    None
                }
            });
        }
        let mut outcomes = self.committer.commit(Fence::None, Actor::Client, decisions).await?.into_iter();
        let mut created = Vec::with_capacity(jobs.len());
        for (new, refused) in jobs.iter().zip(answers) {
            created.push(match refused {
                // The id occurs twice in this batch, and the first is stored by now.
                Some(Error::AlreadyExists { key, existing }) => {
                    self.existing_if_same(tenant, new, key, existing).await
                }
                Some(error) => self.accepted_before(tenant, new).await.ok_or(error),
                None => self.settle(tenant, new, outcomes.next()).await,
            });
        }
        Ok(created)
    }

    /// Returns the providers, from the cache while it is fresh and reading is a call to a database.
    async fn providers(&self) -> Result<Vec<Arc<Provider>>, Error> {
        let now = self.ports.clock.monotonic();
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let is_fresh = known.read.is_some_and(|read| now.saturating_sub(read) < PROVIDERS_MAX_AGE);
            if is_fresh && !self.ports.store.is_exclusive() {
                return Ok(known.providers.clone());
            }
        }
        let providers = self.ports.store.providers().await?;
        let fresh = KnownProviders { read: Some(now), providers: providers.clone() };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(providers)
    }

    /// Turns the outcome of a commit into the answer to one submit.
    async fn settle(
        &self,
        tenant: &TenantId,
        new: &NewJob,
        outcome: Option<Result<Aggregate, CommitError>>,
    ) -> Result<Accepted, Error> {
        match outcome {
            Some(Ok(Aggregate::Job(job))) => Ok(Accepted { job, is_new: true }),
            Some(Err(CommitError::Conflict { .. })) => {
                self.existing_if_same(tenant, new, JobKey::Id, new.id).await
            }
            Some(Err(CommitError::Duplicate { existing })) => {
                self.existing_if_same(tenant, new, JobKey::Idempotency, existing).await
            }
            Some(Err(CommitError::Full { limit })) => Err(Error::QueueFull { limit }),
            Some(Err(CommitError::Rejected { why })) => Err(StoreError::Rejected(why).into()),
            _ => Err(Error::ShuttingDown),
        }
    }

    /// Returns the job that an earlier submit of the same job created, even if its secrets or inputs are gone by now.
    /// Called only for refused submits.
    async fn accepted_before(&self, tenant: &TenantId, new: &NewJob) -> Option<Accepted> {
        let first = self.existing_if_same(tenant, new, JobKey::Id, new.id).await.ok();
        let (None, Some(key)) = (&first, new.spec.idempotency_key()) else { return first };
        let existing = self.ports.store.job_by_key(tenant, key).await.ok()??;
        self.existing_if_same(tenant, new, JobKey::Idempotency, existing).await.ok()
    }

    /// Returns the existing job when the submit repeats it; refuses a different job with the same id or key.
    async fn existing_if_same(
        &self,
        tenant: &TenantId,
        new: &NewJob,
        key: JobKey,
        existing: JobId,
    ) -> Result<Accepted, Error> {
        match self.ports.store.jobs(&[existing]).await?.pop().flatten() {
            Some(job) if job.tenant() == tenant && job.spec() == &new.spec => {
                Ok(Accepted { job, is_new: false })
            }
            _ => Err(Error::AlreadyExists { key, existing }),
        }
    }
}
