//! The platform's interface for providers.

use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::StoreId;
use hodei_core::port::{Clock, IdGenerator};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::link::WorkerDoor;
use crate::task::Tasks;

/// Label of a provider and its workers that holds the identity of their machine.
pub(crate) const MACHINE_LABEL: &str = "machine";

/// Time that a provider's task has after the stop; an agent ends its jobs well within it.
const TASK_END_TIMEOUT: Duration = Duration::from_secs(15);

/// Services of the platform for a provider.
#[derive(Debug, Clone)]
pub struct ProviderContext {
    pub(crate) owner: StoreId,
    pub(crate) door: Arc<dyn WorkerDoor>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    pub(crate) tasks: Tasks,
    pub(crate) exits: Arc<Notify>,
    /// True when the store outlives this process.
    pub(crate) is_durable: bool,
    /// Name of this machine, if daemons on other machines share the store.
    pub(crate) host: Option<String>,
    /// Identity that distinguishes this machine from others of the same name, if daemons on other machines share the
    /// store.
    pub(crate) machine: Option<String>,
}

impl ProviderContext {
    /// Returns the owner of the provider's workers.
    pub fn owner(&self) -> StoreId {
        self.owner
    }

    /// Returns the name for a provider whose workers are processes of this machine; each machine that shares the store
    /// gets its own.
    pub fn local_name(&self, name: &str) -> String {
        self.host.as_ref().map_or_else(|| name.to_owned(), |host| format!("{name}@{host}"))
    }

    /// Returns the door through which agents of this process connect.
    pub fn door(&self) -> Arc<dyn WorkerDoor> {
        self.door.clone()
    }

    /// Returns the platform's clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// Returns the platform's id generator.
    pub fn ids(&self) -> Arc<dyn IdGenerator> {
        self.ids.clone()
    }

    /// Tells the platform that a worker is gone, so that it lists this provider's workers now and not at its next
    /// sweep.
    pub fn worker_exited(&self) {
        self.exits.notify_one();
    }

    /// Spawns a task that the platform owns; it should end soon after the token is cancelled. A shutdown waits at most
    /// 15 s for it, then drops it at its next await. A panic is logged and ends only this task.
    pub fn spawn<F>(&self, name: &'static str, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (clock, work) = (self.clock.clone(), work(self.tasks.stop().child_token()));
        self.tasks.spawn_guest(name, clock, TASK_END_TIMEOUT, work);
    }
}
