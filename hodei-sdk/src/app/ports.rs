//! The ports of a platform, shared by every component of the application.

use std::sync::Arc;

use hodei_core::port::{Clock, EventBus, IdGenerator, LogStore, Store};

use crate::config::Settings;
use crate::task::Tasks;

/// The ports of one platform: stores, bus, clock, id generator and tasks; and its settings.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) logs: Arc<dyn LogStore>,
    pub(crate) bus: Arc<dyn EventBus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdGenerator>,
    pub(crate) tasks: Tasks,
    pub(crate) settings: Settings,
}
