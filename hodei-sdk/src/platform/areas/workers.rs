//! The area of workers: list, get, drain.

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

    /// Returns one worker, including a terminated one until the store deletes it; `None` if there is none.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, id: WorkerId) -> Result<Option<WorkerView>, Error> {
        self.seam().get(self.hodei.caller(), id).await
    }

    /// Drains a worker: it takes no more jobs and terminates when its jobs have ended. Has no effect on a worker that
    /// drains or is terminated.
    ///
    /// # Errors
    /// [`Error::NoWorker`] if no worker has this id, or on a passive platform; [`Error::Denied`]; the store's.
    pub async fn drain(&self, id: WorkerId) -> Result<WorkerView, Error> {
        self.seam().drain(self.hodei.caller(), id).await
    }

    fn seam(&self) -> &dyn WorkerSeam {
        &*self.hodei.seams().workers
    }
}
