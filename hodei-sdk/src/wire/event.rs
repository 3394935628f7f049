//! Events over the wire: the envelope in fields, the event itself as JSON.

use hodei_core::decision::AggregateId;
use hodei_core::event::{Actor, Envelope};
use hodei_proto::convert::time_to_wire;
use hodei_proto::convert::{ConvertError, parse, parse_some, time_from_wire};
use hodei_proto::v1::event::{Actor as WireActor, Aggregate};
use hodei_proto::v1::{self};

/// Returns the wire form of an event.
pub(crate) fn event_to_wire(envelope: &Envelope) -> v1::Event {
    let actor = match envelope.actor {
        Actor::Client => WireActor::Client,
        Actor::Coordinator => WireActor::Coordinator,
        Actor::Agent => WireActor::Agent,
        Actor::Platform => WireActor::Platform,
    };
    v1::Event {
        id: envelope.id.to_string(),
        sequence: envelope.sequence,
        aggregate: Some(match envelope.aggregate {
            AggregateId::Job(id) => Aggregate::JobId(id.to_string()),
            AggregateId::Worker(id) => Aggregate::WorkerId(id.to_string()),
            AggregateId::Provider(id) => Aggregate::ProviderId(id.to_string()),
            AggregateId::Secret(id) => Aggregate::SecretId(id.to_string()),
            AggregateId::Token(id) => Aggregate::TokenId(id.to_string()),
            AggregateId::Platform(id) => Aggregate::StoreId(id.to_string()),
        }),
        version: envelope.version,
        correlation_id: envelope.correlation.to_string(),
        causation_id: envelope.causation.map(|id| id.to_string()).unwrap_or_default(),
        actor: actor.into(),
        at: Some(time_to_wire(envelope.at)),
        schema: envelope.schema.into(),
        // Never fails: every event is plain data.
        body: serde_json::to_string(&envelope.event).unwrap_or_default(),
    }
}

/// Reads an event from a message.
pub(crate) fn event_from_wire(message: v1::Event) -> Result<Envelope, ConvertError> {
    let actor = match message.actor() {
        WireActor::Client => Actor::Client,
        WireActor::Coordinator => Actor::Coordinator,
        WireActor::Agent => Actor::Agent,
        WireActor::Platform => Actor::Platform,
        WireActor::Unspecified => return Err(ConvertError::Malformed("actor")),
    };
    let aggregate = match message.aggregate.ok_or(ConvertError::Missing("aggregate"))? {
        Aggregate::JobId(id) => AggregateId::Job(parse("job_id", &id)?),
        Aggregate::WorkerId(id) => AggregateId::Worker(parse("worker_id", &id)?),
        Aggregate::ProviderId(id) => AggregateId::Provider(parse("provider_id", &id)?),
        Aggregate::SecretId(id) => AggregateId::Secret(parse("secret_id", &id)?),
        Aggregate::TokenId(id) => AggregateId::Token(parse("token_id", &id)?),
        Aggregate::StoreId(id) => AggregateId::Platform(parse("store_id", &id)?),
    };
    let body = serde_json::from_str(&message.body);
    Ok(Envelope {
        id: parse("id", &message.id)?,
        sequence: message.sequence,
        aggregate,
        version: message.version,
        correlation: parse("correlation_id", &message.correlation_id)?,
        causation: parse_some("causation_id", &message.causation_id)?,
        actor,
        at: message.at.as_ref().map(time_from_wire).ok_or(ConvertError::Missing("at"))?,
        schema: u16::try_from(message.schema).map_err(|_| ConvertError::Malformed("schema"))?,
        event: body.map_err(|error| ConvertError::Text { field: "body", why: error.to_string() })?,
    })
}
