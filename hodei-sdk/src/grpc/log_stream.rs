//! The gRPC service of output: follows the output of a job, or reads the stored part.

use hodei_proto::convert::parse;
use hodei_proto::v1;
use hodei_proto::v1::log_stream_service_server::LogStreamService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Serving;
use crate::wire::item::item_to_wire;
use crate::wire::refusal::{malformed, status};
use crate::{Hodei, JobLogs};

/// Serves the output of jobs.
#[derive(Debug)]
pub(super) struct LogStreamApi(pub(super) Serving);

/// Approximate maximum bytes of output in one answer.
const ANSWER_BYTES: usize = 256 * 1024;
/// Maximum number of answers that are buffered for a slow follower. It delays no other follower.
const MAX_BUFFERED_ANSWERS: usize = 4;

impl LogStreamApi {
    fn logs(&self, hodei: &Hodei, job_id: &str, from: Option<v1::LogCursor>) -> Result<JobLogs, Status> {
        let id = parse("job_id", job_id).map_err(malformed)?;
        let v1::LogCursor { attempt, sequence } = from.unwrap_or_default();
        Ok(hodei.jobs().logs(id).starting_at(attempt.max(1), sequence))
    }
}

#[tonic::async_trait]
impl LogStreamService for LogStreamApi {
    type SubscribeStream = ReceiverStream<Result<v1::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<v1::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let hodei = self.0.hodei(&request)?;
        let v1::SubscribeRequest { job_id, from } = request.into_inner();
        let mut logs = self.logs(&hodei, &job_id, from)?;
        let (answers, stream) = mpsc::channel(MAX_BUFFERED_ANSWERS);
        self.0.follow("log follower", &hodei, answers, move |answers| async move {
            loop {
                let answer = match logs.next_batch(ANSWER_BYTES).await {
                    Ok(items) => {
                        let over = items.is_empty();
                        Ok(v1::SubscribeResponse { items: items.iter().map(item_to_wire).collect(), over })
                    }
                    Err(error) => Err(status(error)),
                };
                let last = answer.as_ref().map_or(true, |answer| answer.over);
                if answers.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get(
        &self,
        request: Request<v1::GetLogsRequest>,
    ) -> Result<Response<v1::GetLogsResponse>, Status> {
        let hodei = self.0.hodei(&request)?;
        let v1::GetLogsRequest { job_id, from } = request.into_inner();
        let mut logs = self.logs(&hodei, &job_id, from)?.stored();
        let items = logs.next_batch(ANSWER_BYTES).await.map_err(status)?;
        let (attempt, sequence) = logs.position();
        let next = (!items.is_empty()).then_some(v1::LogCursor { attempt, sequence });
        Ok(Response::new(v1::GetLogsResponse { items: items.iter().map(item_to_wire).collect(), next }))
    }
}
