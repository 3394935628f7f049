//! The area of events: reads the stored feed.

use hodei_core::port::{FeedCursor, FeedPage};

use crate::Hodei;
use crate::error::Error;
use crate::seam::EventSeam;

/// The stored events of a platform: see [`Hodei::events`].
#[derive(Debug, Clone)]
pub struct Events {
    hodei: Hodei,
}

impl Events {
    pub(in crate::platform) fn new(hodei: &Hodei) -> Self {
        Self { hodei: hodei.clone() }
    }

    /// Returns up to `limit` stored events after a cursor, in order: those of the jobs and secrets of the caller's
    /// tenant, and the shared ones that its role may see. Continue from [`FeedPage::next`], also after an empty page;
    /// the end is reached when that equals the cursor of the call.
    ///
    /// # Errors
    /// The store's, which refuses a cursor that it did not issue.
    pub async fn read(&self, after: &FeedCursor, limit: usize) -> Result<FeedPage, Error> {
        self.seam().read(self.hodei.caller(), after, limit).await
    }

    fn seam(&self) -> &dyn EventSeam {
        &*self.hodei.seams().events
    }
}
