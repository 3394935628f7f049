use hodei_core::port::{LogBody, LogRecord, LogStream};
use hodei_core::time::Timestamp;
use hodei_proto::convert::{ConvertError, time_from_wire};
use hodei_proto::v1;
use hodei_proto::v1::log_item::{Body, Stream};

use crate::app::LogItem;

/// The piece of output of a message.
pub(super) fn item_from_wire(message: v1::LogItem) -> Result<LogItem, ConvertError> {
    let v1::LogItem { attempt, sequence, at, body } = message;
    let at = at.as_ref().map_or(Timestamp::EPOCH, time_from_wire);
    let record = match body.ok_or(ConvertError::Missing("body"))? {
        Body::Torn(_) => return Ok(LogItem::Torn { attempt }),
        Body::GapTo(to) => LogRecord::gap(sequence, to, at),
        Body::Output(output) => {
            let stream = match output.stream() {
                Stream::Stdout => LogStream::Stdout,
                Stream::Stderr => LogStream::Stderr,
                Stream::Unspecified => return Err(ConvertError::Malformed("output.stream")),
            };
            LogRecord { sequence, at, body: LogBody::Chunk { stream, bytes: output.data } }
        }
    };
    Ok(LogItem::Record { attempt, record })
}
