//! What a server needs of the platform that it serves.

use super::Hodei;
use crate::app::{AccessService, AuditService, WorkerGateway};
use crate::task::Tasks;

impl Hodei {
    /// Knows callers by their tokens; none where a daemon does.
    pub(crate) fn access(&self) -> Option<&AccessService> {
        self.here().map(|here| &here.controller.access)
    }

    /// Takes refusals; none where a daemon does.
    pub(crate) fn audit(&self) -> Option<&AuditService> {
        self.here().map(|here| &here.controller.audit)
    }

    /// The tasks of the platform, for those who serve it.
    pub(crate) fn tasks(&self) -> Option<&Tasks> {
        self.here().map(|here| &here.tasks)
    }

    /// Where agents come in; none where nothing runs.
    pub(crate) fn gateway(&self) -> Option<WorkerGateway> {
        self.here()?.running.as_ref().map(|(_, gateway)| WorkerGateway::clone(gateway))
    }
}
