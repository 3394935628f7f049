//! Pieces of output over the wire.

use hodei_core::event::LogGap;
use hodei_core::port::{LogBody, LogRecord};
use hodei_core::time::Timestamp;
use hodei_proto::convert::{ConvertError, stream_from_wire, stream_to_wire, time_from_wire, time_to_wire};
use hodei_proto::v1;
use hodei_proto::v1::log_item::{Body, Output};

use crate::seam::LogItem;

/// Returns the wire form of a piece of output.
pub(crate) fn item_to_wire(item: &LogItem) -> v1::LogItem {
    match item {
        LogItem::Record { attempt, record: LogRecord { sequence, at, body } } => {
            let gap_bytes = match body {
                LogBody::Gap(gap) => gap.bytes,
                LogBody::Chunk { .. } => 0,
            };
            let body = match body {
                LogBody::Chunk { stream, bytes } => {
                    Body::Output(Output { stream: stream_to_wire(*stream).into(), data: bytes.clone() })
                }
                LogBody::Gap(LogGap { to, .. }) => Body::GapTo(*to),
            };
            let at = Some(time_to_wire(*at));
            v1::LogItem { attempt: *attempt, sequence: *sequence, at, gap_bytes, body: Some(body) }
        }
        LogItem::Torn { attempt } => {
            let (sequence, at, gap_bytes) = (0, None, 0);
            v1::LogItem { attempt: *attempt, sequence, at, gap_bytes, body: Some(Body::Torn(true)) }
        }
    }
}

/// Reads a piece of output from a message.
pub(crate) fn item_from_wire(message: v1::LogItem) -> Result<LogItem, ConvertError> {
    let v1::LogItem { attempt, sequence, at, gap_bytes, body } = message;
    let at = at.as_ref().map_or(Timestamp::EPOCH, time_from_wire);
    let record = match body.ok_or(ConvertError::Missing("body"))? {
        Body::Torn(_) => return Ok(LogItem::Torn { attempt }),
        Body::GapTo(to) => LogRecord::of_gap(LogGap { from: sequence, to, bytes: gap_bytes }, at),
        Body::Output(output) => {
            let stream = stream_from_wire(output.stream)?;
            LogRecord { sequence, at, body: LogBody::Chunk { stream, bytes: output.data } }
        }
    };
    Ok(LogItem::Record { attempt, record })
}
