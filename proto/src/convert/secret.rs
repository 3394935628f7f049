//! Secrets: messages to domain and back. Also `Debug` of messages that hold values.

use std::fmt;

use bytes::Bytes;
use hodei_core::secret::{SecretName, SecretValue};
use zeroize::Zeroizing;

use super::{ConvertError, parse};
use crate::v1;

/// Returns the wire form of secrets. It copies each value into memory that is overwritten when the message is dropped.
pub fn secrets_to_wire(secrets: &[(SecretName, SecretValue)]) -> Vec<v1::Secret> {
    let wire = |(name, value): &(SecretName, SecretValue)| v1::Secret {
        name: name.to_string(),
        value: secret_to_wire(value),
    };
    secrets.iter().map(wire).collect()
}

/// Returns the value of a secret as bytes for a message, overwritten when the message is dropped.
pub fn secret_to_wire(value: &SecretValue) -> Bytes {
    Bytes::from_owner(Zeroizing::new(value.expose().to_vec()))
}

/// Reads the secrets of a message.
///
/// # Errors
/// [`ConvertError`] when a name or a size is not valid.
pub fn secrets_from_wire(messages: &[v1::Secret]) -> Result<Vec<(SecretName, SecretValue)>, ConvertError> {
    let read = |message: &v1::Secret| Ok((parse("secrets", &message.name)?, secret_value(&message.value)?));
    messages.iter().map(read).collect()
}

/// Reads the value of a secret in a message.
///
/// # Errors
/// [`ConvertError`] when its size is not valid.
pub fn secret_value(bytes: &Bytes) -> Result<SecretValue, ConvertError> {
    SecretValue::new(bytes.to_vec())
        .map_err(|error| ConvertError::Text { field: "value", why: error.to_string() })
}

impl fmt::Debug for v1::Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for v1::PutSecretRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutSecretRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_round_trip_and_debug_of_messages_does_not_show_their_values() {
        let secrets = [("db".parse().unwrap(), SecretValue::new(b"hunter22".to_vec()).unwrap())];
        let wire = secrets_to_wire(&secrets);
        assert_eq!(secrets_from_wire(&wire).unwrap(), secrets);
        let assignment = v1::Assignment { secrets: wire, ..v1::Assignment::default() };
        let put = v1::PutSecretRequest { name: "db".into(), value: Bytes::from_static(b"hunter22") };
        let shown = format!("{assignment:?} {put:?}");
        assert!(shown.contains("db") && !shown.contains("hunter") && !shown.contains("104"), "{shown}");
        let short = v1::Secret { name: "db".into(), value: Bytes::from_static(b"abc") };
        assert!(secrets_from_wire(&[short]).is_err());
    }
}
