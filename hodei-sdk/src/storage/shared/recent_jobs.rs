//! Cache of jobs that were read or written recently.

use std::sync::Arc;

use hodei_core::id::JobId;
use hodei_core::job::Job;
use lru::LruCache;

/// The most recently used jobs, up to a total size.
#[derive(Debug)]
pub(in crate::storage) struct RecentJobs {
    jobs: LruCache<JobId, (Arc<Job>, usize)>,
    bytes: usize,
}

/// Maximum size of all cached jobs, in bytes.
const MAX_CACHED_BYTES: usize = 16 << 20;
/// Approximate size of a job without its spec, in bytes.
const JOB_OVERHEAD_BYTES: usize = 1024;

impl Default for RecentJobs {
    fn default() -> Self {
        Self { jobs: LruCache::unbounded(), bytes: 0 }
    }
}

impl RecentJobs {
    /// Returns a job and marks it as used.
    pub(in crate::storage) fn get(&mut self, id: JobId) -> Option<Arc<Job>> {
        self.jobs.get(&id).map(|(job, _)| job.clone())
    }

    /// Returns the version of a cached job.
    #[cfg(feature = "sqlite")]
    pub(in crate::storage) fn version(&self, id: JobId) -> Option<u64> {
        self.jobs.peek(&id).map(|(job, _)| job.version())
    }

    /// Caches a job, unless a newer state of it is cached. Version 1 always replaces the cached job: it is a new job
    /// whose id belonged to a forgotten one.
    pub(in crate::storage) fn put(&mut self, job: &Arc<Job>) {
        let is_newer = |(known, _): &(Arc<Job>, usize)| known.version() > job.version();
        if job.version() > 1 && self.jobs.peek(&job.id()).is_some_and(is_newer) {
            return;
        }
        let size = JOB_OVERHEAD_BYTES + job.spec().size();
        self.bytes += size;
        if let Some((_, (_, replaced))) = self.jobs.push(job.id(), (job.clone(), size)) {
            self.bytes -= replaced;
        }
        while self.bytes > MAX_CACHED_BYTES {
            let Some((_, (_, size))) = self.jobs.pop_lru() else { return };
            self.bytes -= size;
        }
    }

    pub(in crate::storage) fn forget(&mut self, id: JobId) {
        if let Some((_, size)) = self.jobs.pop(&id) {
            self.bytes -= size;
        }
    }
}
