//! The value of a secret, in memory.

use std::fmt;

use zeroize::Zeroizing;

/// The value of a secret: 4 bytes to 1 MiB. Its memory is overwritten when it is dropped, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Minimum bytes of a value: masking a shorter one would hide much of a job's normal output.
    pub const SHORTEST: usize = 4;
    /// Maximum bytes of a value: 1 MiB.
    pub const LONGEST: usize = 1 << 20;

    /// Makes a value of these bytes; overwrites them when their number is not valid.
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

    /// Returns the bytes, for delivery.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(***)")
    }
}

/// The value is too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("value has {got} bytes; a secret has {} to {}", SecretValue::SHORTEST, SecretValue::LONGEST)]
pub struct SecretSize {
    /// Number of its bytes.
    pub got: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_size_limits_and_debug_does_not_show_it() {
        assert_eq!(SecretValue::new(vec![0; 3]).unwrap_err().got, 3);
        assert!(SecretValue::new(vec![0; (1 << 20) + 1]).is_err());
        let value = SecretValue::new(b"hunter22".to_vec()).unwrap();
        assert!(!format!("{value:?}").contains("hunter"));
        assert_eq!(value.expose(), b"hunter22");
    }
}
