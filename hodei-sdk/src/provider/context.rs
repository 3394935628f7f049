use std::sync::Arc;
use std::time::Duration;

use hodei_core::id::StoreId;
use hodei_core::port::{Clock, IdGenerator};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::link::WorkerDoor;
use crate::task::Tasks;

/// The label of a provider, and of its workers, that has the identity of their machine.
pub(crate) const MACHINE_LABEL: &str = "machine";

/// A task of a provider has this long after the stop: an agent ends its jobs well within it.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// What the platform gives a provider that is made with it.
#[derive(Debug, Clone)]
pub struct ProviderContext {
    pub(crate) owner: StoreId,
    pub(crate) door: Arc<dyn WorkerDoor>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    pub(crate) tasks: Tasks,
    pub(crate) exits: Arc<Notify>,
    /// Whether the store outlives this process.
    pub(crate) is_durable: bool,
    /// The name of this machine, where daemons of others share the store.
    pub(crate) host: Option<String>,
    /// Tells this machine from others of the same name, there too.
    pub(crate) machine: Option<String>,
}

impl ProviderContext {
    /// Whose its workers are.
    pub fn owner(&self) -> StoreId {
        self.owner
    }

    /// The name of a provider whose workers are processes of this machine: of every machine that shares the store there
    /// is another one.
    pub fn local_name(&self, name: &str) -> String {
        self.host.as_ref().map_or_else(|| name.to_owned(), |host| format!("{name}@{host}"))
    }

    /// Where agents of this process come in.
    pub fn door(&self) -> Arc<dyn WorkerDoor> {
        self.door.clone()
    }

    /// The platform's clock.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// The platform's ids.
    pub fn ids(&self) -> Arc<dyn IdGenerator> {
        self.ids.clone()
    }

    /// Tells the platform that a worker is gone: it looks at what this provider lists, now rather than with its next
    /// sweep.
    pub fn worker_exited(&self) {
        self.exits.notify_one();
    }

    /// Spawns a task that the platform owns: it should end soon after the token is cancelled. A shutdown waits for it,
    /// but 15 s at most: then it is dropped at its next wait. A panic is logged and ends the task alone.
    pub fn spawn<F>(&self, name: &'static str, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (clock, work) = (self.clock.clone(), work(self.tasks.stop().child_token()));
        self.tasks.spawn_guest(name, clock, END_TIMEOUT, work);
    }
}
