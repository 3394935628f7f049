//! The area of workers.

use hodei_core::id::WorkerId;
use hodei_core::worker::WorkerView;

use crate::Hodei;
use crate::error::Error;
use crate::seam::WorkerSeam;

/// The workers of a platform: see [`Hodei::workers`].
#[derive(Debug, Clone)]
pub struct Workers {
    hodei: Hodei,
}

impl Workers {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Returns the workers that are not terminated.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self) -> Result<Vec<WorkerView>, Error> {
        self.seam().list(self.hodei.caller()).await
    }

    /// Returns one worker; also a terminated one while the store remembers it.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, id: WorkerId) -> Result<Option<WorkerView>, Error> {
        self.seam().get(self.hodei.caller(), id).await
    }

    /// Has a worker take no more jobs, and leave when its jobs have ended. A worker that drains or is terminated is left as
    /// it is.
    ///
    /// # Errors
    /// [`Error::NoWorker`] when there is none of this id, or on a platform that runs nothing; [`Error::Denied`]; the store's.
    pub async fn drain(&self, id: WorkerId) -> Result<WorkerView, Error> {
        self.seam().drain(self.hodei.caller(), id).await
    }

    fn seam(&self) -> &dyn WorkerSeam {
        &*self.hodei.seams().workers
    }
}
