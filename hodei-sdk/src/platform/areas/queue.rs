//! The area of the queue: its status.

use hodei_core::scheduling::QueueStatus;

use crate::Hodei;
use crate::error::Error;
use crate::seam::QueueSeam;

/// The queue of a platform: see [`Hodei::queue`].
#[derive(Debug, Clone)]
pub struct Queue {
    hodei: Hodei,
}

impl Queue {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Returns the state of the queue after the last scheduling round.
    ///
    /// # Errors
    /// The store's.
    pub async fn status(&self) -> Result<QueueStatus, Error> {
        self.seam().status(self.hodei.caller()).await
    }

    fn seam(&self) -> &dyn QueueSeam {
        &*self.hodei.seams().queue
    }
}
