//! Macro that delegates the read ports of a store.

/// Implements the read ports of a store by calling `self.inner` through `self.read`, so that a layer over a store only
/// writes the calls that it changes.
macro_rules! delegate_reads {
    ($layer:ty) => {
        #[async_trait::async_trait]
        impl hodei_core::port::JobRepository for $layer {
            async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
                self.read(|| self.inner.jobs(ids)).await
            }

            async fn recent_jobs(&self, ids: &[JobId]) -> Result<Vec<Option<Arc<Job>>>, StoreError> {
                self.recent(ids).await
            }

            async fn list_jobs(&self, filter: &JobFilter) -> Result<JobPage, StoreError> {
                self.read(|| self.inner.list_jobs(filter)).await
            }

            async fn job_by_key(&self, tenant: &TenantId, key: &str) -> Result<Option<JobId>, StoreError> {
                self.read(|| self.inner.job_by_key(tenant, key)).await
            }

            async fn ended_before(
                &self,
                before: Timestamp,
                limit: usize,
            ) -> Result<Vec<AttemptId>, StoreError> {
                self.read(|| self.inner.ended_before(before, limit)).await
            }
        }

        #[async_trait::async_trait]
        impl hodei_core::port::JobQueue for $layer {
            async fn open_jobs(
                &self,
                after: Option<JobId>,
                limit: usize,
            ) -> Result<Vec<Arc<Job>>, StoreError> {
                self.read(|| self.inner.open_jobs(after, limit)).await
            }

            async fn jobs_of_workers(&self, workers: &[WorkerId]) -> Result<Vec<Arc<Job>>, StoreError> {
                self.read(|| self.inner.jobs_of_workers(workers)).await
            }
        }

        #[async_trait::async_trait]
        impl hodei_core::port::WorkerRegistry for $layer {
            async fn workers(&self, ids: &[WorkerId]) -> Result<Vec<Option<Arc<Worker>>>, StoreError> {
                self.read(|| self.inner.workers(ids)).await
            }

            async fn live_workers(&self) -> Result<Vec<Arc<Worker>>, StoreError> {
                self.read(|| self.inner.live_workers()).await
            }
        }

        #[async_trait::async_trait]
        impl hodei_core::port::ProviderConfigRepository for $layer {
            async fn providers(&self) -> Result<Vec<Arc<Provider>>, StoreError> {
                self.read(|| self.inner.providers()).await
            }
        }

        #[async_trait::async_trait]
        impl hodei_core::port::SecretRepository for $layer {
            async fn secrets(
                &self,
                ids: &[hodei_core::id::SecretId],
            ) -> Result<Vec<Option<Arc<hodei_core::secret::Secret>>>, StoreError> {
                self.read(|| self.inner.secrets(ids)).await
            }

            async fn list_secrets(
                &self,
                tenant: &TenantId,
            ) -> Result<Vec<hodei_core::port::SecretInfo>, StoreError> {
                self.read(|| self.inner.list_secrets(tenant)).await
            }
        }

        #[async_trait::async_trait]
        impl hodei_core::port::AccessRepository for $layer {
            async fn tokens(
                &self,
                ids: &[hodei_core::id::TokenId],
            ) -> Result<Vec<Option<Arc<hodei_core::access::AccessToken>>>, StoreError> {
                self.read(|| self.inner.tokens(ids)).await
            }

            async fn list_tokens(&self) -> Result<Vec<Arc<hodei_core::access::AccessToken>>, StoreError> {
                self.read(|| self.inner.list_tokens()).await
            }
        }

        #[async_trait::async_trait]
        impl hodei_core::port::AuditRepository for $layer {
            async fn history(&self, aggregate: AggregateId) -> Result<Vec<Envelope>, StoreError> {
                self.read(|| self.inner.history(aggregate)).await
            }

            async fn feed(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, StoreError> {
                self.read(|| self.inner.feed(after, limit)).await
            }

            async fn record(&self, events: &[Envelope]) -> Result<(), StoreError> {
                self.inner.record(events).await
            }

            async fn feed_end(&self) -> Result<FeedCursor, StoreError> {
                self.read(|| self.inner.feed_end()).await
            }

            async fn feed_lag(&self, now: Timestamp) -> Result<std::time::Duration, StoreError> {
                self.read(|| self.inner.feed_lag(now)).await
            }
        }

        #[async_trait::async_trait]
        impl hodei_core::port::LeaseStore for $layer {
            fn is_exclusive(&self) -> bool {
                self.inner.is_exclusive()
            }

            async fn beat(
                &self,
                beat: &hodei_core::port::DaemonBeat,
            ) -> Result<hodei_core::port::Cluster, StoreError> {
                self.read(|| self.inner.beat(beat)).await
            }

            async fn take_lease(
                &self,
                name: &str,
                seen: Epoch,
                holder: hodei_core::id::DaemonId,
            ) -> Result<Option<Epoch>, StoreError> {
                self.inner.take_lease(name, seen, holder).await
            }

            async fn leave(&self, daemon: hodei_core::id::DaemonId) -> Result<(), StoreError> {
                self.inner.leave(daemon).await
            }
        }
    };
}

pub(crate) use delegate_reads;
