use std::fmt;

use zeroize::Zeroizing;

/// The value of a secret: 4 bytes to 1 MiB. It is overwritten in memory when it is dropped, and shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Bytes of a value at least: masking what is shorter would hide half of what a job prints.
    pub const SHORTEST: usize = 4;
    /// Bytes of a value at most: 1 MiB.
    pub const LONGEST: usize = 1 << 20;

    /// The value of these bytes, which are overwritten when they cannot be one.
    ///
    /// # Errors
    /// [`SecretSize`] when there are too few or too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretSize> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            Self::SHORTEST..=Self::LONGEST => Ok(Self(bytes)),
            got => Err(SecretSize { got }),
        }
    }

    /// The bytes, for whoever hands them on.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(***)")
    }
}

/// A value that is too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("value has {got} bytes; a secret has {} to {}", SecretValue::SHORTEST, SecretValue::LONGEST)]
pub struct SecretSize {
    /// How many bytes it has.
    pub got: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_limits_and_shows_itself_to_nobody() {
        assert_eq!(SecretValue::new(vec![0; 3]).unwrap_err().got, 3);
        assert!(SecretValue::new(vec![0; (1 << 20) + 1]).is_err());
        let value = SecretValue::new(b"hunter22".to_vec()).unwrap();
        assert!(!format!("{value:?}").contains("hunter"));
        assert_eq!(value.expose(), b"hunter22");
    }
}
