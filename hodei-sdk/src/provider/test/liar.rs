//! Worker that reports attempts which it does not have.

use hodei_agent::Connector;
use hodei_core::id::AttemptId;
use hodei_core::job::{AttemptReport, Outcome};
use hodei_core::time::Timestamp;
use hodei_proto::v1::agent_message::Body;
use hodei_proto::v1::server_message::Body as FromPlatform;
use hodei_proto::{PROTOCOL_VERSION, convert, v1};

/// Plays a worker that reports results of attempts which it never had, then gives back its own attempts.
pub(super) async fn lie(connector: &dyn Connector) {
    let Ok(mut stream) = connector.connect().await else { return };
    let say = |body| stream.outgoing.send(v1::AgentMessage { body: Some(body) });
    let hello = v1::Hello { version: PROTOCOL_VERSION, slots: 2, prefetch: 0, ..v1::Hello::default() };
    if say(Body::Hello(hello)).await.is_err() {
        return;
    }
    while let Some(message) = stream.incoming.recv().await {
        let Some(FromPlatform::RunJobs(run)) = message.body else { continue };
        for assignment in run.assignments {
            let Ok(attempt) = convert::attempt_id(assignment.attempt.as_ref()) else { continue };
            for body in lies(attempt) {
                if say(body).await.is_err() {
                    return;
                }
            }
        }
        if say(Body::Draining(v1::Draining { empty: true })).await.is_err() {
            return;
        }
    }
}

fn lies(attempt: AttemptId) -> Vec<Body> {
    // A number that is never reached. The next attempt could become this worker's own before a failing store has
    // checked the lie, and a false report of an own attempt looks like a true one.
    let next = AttemptId { number: attempt.number + 1_000, ..attempt };
    let before = AttemptId { number: attempt.number - 1, ..attempt };
    let mut said = Vec::new();
    for other in [next, before] {
        let chunk = v1::LogChunk { stream: 1, at_micros: 0, data: "a lie\n".into() };
        let attempt = Some(convert::attempt_ref(other));
        said.push(Body::LogBatch(v1::LogBatch { attempt, first_sequence: 0, chunks: vec![chunk] }));
        let report = AttemptReport {
            outcome: Outcome::Succeeded,
            exit_code: Some(0),
            started_at: Some(Timestamp::from_micros(1)),
            finished_at: Timestamp::from_micros(2),
            log_end: 0,
            usage: None,
            artifacts: Vec::new(),
            interrupted: false,
        };
        said.push(Body::JobFinished(convert::report_to_wire(other, &report)));
    }
    said.push(Body::GiveBack(v1::GiveBack { attempts: vec![convert::attempt_ref(attempt)] }));
    said
}
