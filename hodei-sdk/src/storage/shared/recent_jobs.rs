//! Jobs as they were last read or written, so that they need not be read again.

use std::sync::Arc;

use hodei_core::id::JobId;
use hodei_core::job::Job;
use lru::LruCache;

/// Some jobs, bounded by their size: those that were used last.
#[derive(Debug)]
pub(in crate::storage) struct RecentJobs {
    jobs: LruCache<JobId, (Arc<Job>, usize)>,
    bytes: usize,
}

/// Bytes of jobs kept.
const LIMIT: usize = 16 << 20;
/// What a job takes beside its spec, about.
const JOB: usize = 1024;

impl Default for RecentJobs {
    fn default() -> Self {
        Self { jobs: LruCache::unbounded(), bytes: 0 }
    }
}

impl RecentJobs {
    /// A job, which counts as used.
    pub(in crate::storage) fn get(&mut self, id: JobId) -> Option<Arc<Job>> {
        self.jobs.get(&id).map(|(job, _)| job.clone())
    }

    /// The version of a job.
    #[cfg(feature = "sqlite")]
    pub(in crate::storage) fn version(&self, id: JobId) -> Option<u64> {
        self.jobs.peek(&id).map(|(job, _)| job.version())
    }

    /// Keeps a job, unless a newer state of it is kept. One of version 1 is new: another of its id was forgotten.
    pub(in crate::storage) fn put(&mut self, job: &Arc<Job>) {
        let is_newer = |(known, _): &(Arc<Job>, usize)| known.version() > job.version();
        if job.version() > 1 && self.jobs.peek(&job.id()).is_some_and(is_newer) {
            return;
        }
        let size = JOB + job.spec().size();
        self.bytes += size;
        if let Some((_, (_, replaced))) = self.jobs.push(job.id(), (job.clone(), size)) {
            self.bytes -= replaced;
        }
        while self.bytes > LIMIT {
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
