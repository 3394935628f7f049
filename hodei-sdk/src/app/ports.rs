//! The ports of a platform, which every component of the application works with.

use std::sync::Arc;

use hodei_core::port::{Clock, EventBus, IdGenerator, LogStore, Store};

use crate::config::Settings;
use crate::task::Tasks;

/// The outer world of one platform: where it stores, what time it is, and how long it waits for what.
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
