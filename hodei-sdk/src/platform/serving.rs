//! Internal access to a platform for the gRPC server that serves it.

use std::collections::BTreeMap;

use hodei_core::id::JobId;

use super::Hodei;
use crate::app::{AccessService, Authorizer, JobStates, WorkerGateway};
use crate::task::Tasks;

impl Hodei {
    /// Returns the service that authenticates tokens; `None` for the client of a daemon.
    pub(crate) fn access(&self) -> Option<&AccessService> {
        self.in_process().map(|in_process| &*in_process.access)
    }

    /// Returns the authorizer, which records refusals; `None` for the client of a daemon.
    pub(crate) fn authorizer(&self) -> Option<&Authorizer> {
        self.in_process().map(|in_process| &in_process.jobs.authorizer)
    }

    /// Returns the task group of the platform, for the tasks of its servers; `None` for the client of a daemon.
    pub(crate) fn tasks(&self) -> Option<&Tasks> {
        self.in_process().map(|in_process| &in_process.ports.tasks)
    }

    /// Returns the gateway of agents; `None` for a passive platform or the client of a daemon.
    pub(crate) fn gateway(&self) -> Option<WorkerGateway> {
        self.in_process()?.running.as_ref().map(|(_, gateway)| WorkerGateway::clone(gateway))
    }

    /// Follows the states of jobs that are newer than the given versions; `None` for the client of a daemon.
    pub(crate) fn states(&self, seen: BTreeMap<JobId, u64>, ends_only: bool) -> Option<JobStates> {
        self.in_process().map(|in_process| in_process.jobs.states(&self.caller, seen, ends_only))
    }
}
