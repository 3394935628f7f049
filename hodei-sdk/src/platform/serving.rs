//! What a server needs of the platform that it serves.

use std::collections::BTreeMap;

use hodei_core::id::JobId;

use super::Hodei;
use crate::app::{AccessService, Authorizer, JobStates, WorkerGateway};
use crate::task::Tasks;

impl Hodei {
    /// Knows callers by their tokens; `None` for a client, whose daemon does.
    pub(crate) fn access(&self) -> Option<&AccessService> {
        self.here().map(|here| &*here.access)
    }

    /// Takes refusals; `None` for a client, whose daemon does.
    pub(crate) fn authorizer(&self) -> Option<&Authorizer> {
        self.here().map(|here| &here.jobs.authorizer)
    }

    /// The tasks of the platform, for those who serve it.
    pub(crate) fn tasks(&self) -> Option<&Tasks> {
        self.here().map(|here| &here.ports.tasks)
    }

    /// Where agents come in; `None` where nothing runs.
    pub(crate) fn gateway(&self) -> Option<WorkerGateway> {
        self.here()?.running.as_ref().map(|(_, gateway)| WorkerGateway::clone(gateway))
    }

    /// States of some jobs above some versions; `None` for a client.
    pub(crate) fn states(&self, seen: BTreeMap<JobId, u64>, ends_only: bool) -> Option<JobStates> {
        self.here().map(|here| here.jobs.states(&self.caller, seen, ends_only))
    }
}
