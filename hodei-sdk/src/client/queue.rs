//! The queue seam of the client: reads the status of the queue.

use async_trait::async_trait;
use hodei_core::access::Caller;
use hodei_core::scheduling::QueueStatus;
use hodei_proto::v1;

use super::DaemonClient;
use crate::error::Error;
use crate::seam::QueueSeam;
use crate::wire::scheduling::queue_from_wire;

#[async_trait]
impl QueueSeam for DaemonClient {
    async fn status(&self, _: &Caller) -> Result<QueueStatus, Error> {
        let answer = self
            .call(|| async { self.scheduler_stub().get_queue_status(v1::GetQueueStatusRequest {}).await });
        queue_from_wire(answer.await?).map_err(|error| self.malformed(&error))
    }
}
