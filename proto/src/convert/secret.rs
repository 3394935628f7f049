use std::fmt;

use bytes::Bytes;
use hodei_core::secret::{SecretName, SecretValue};
use zeroize::Zeroizing;

use super::{ConvertError, parse};
use crate::v1;

/// The wire form of secrets: each value once more in memory, which is overwritten once the message is gone.
pub fn secrets_to_wire(secrets: &[(SecretName, SecretValue)]) -> Vec<v1::Secret> {
    let wire = |(name, value): &(SecretName, SecretValue)| v1::Secret {
        name: name.to_string(),
        value: secret_to_wire(value),
    };
    secrets.iter().map(wire).collect()
}

/// The bytes of a secret for a message, overwritten once that is gone.
pub fn secret_to_wire(value: &SecretValue) -> Bytes {
    Bytes::from_owner(Zeroizing::new(value.expose().to_vec()))
}

/// The secrets of a message.
///
/// # Errors
/// [`ConvertError`] when one has no name or no size that a secret can have.
pub fn secrets_from_wire(messages: &[v1::Secret]) -> Result<Vec<(SecretName, SecretValue)>, ConvertError> {
    let read = |message: &v1::Secret| Ok((parse("secrets", &message.name)?, secret_value(&message.value)?));
    messages.iter().map(read).collect()
}

/// The value of a secret in a message.
///
/// # Errors
/// [`ConvertError`] when no secret can have its size.
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
    fn secrets_round_trip_and_no_message_shows_their_values() {
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
