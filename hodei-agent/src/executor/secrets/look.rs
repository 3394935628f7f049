//! What a look through a text finds of secret values.

use zeroize::Zeroizing;

/// Bytes that are overwritten when they are dropped.
pub(super) type Wiped = Zeroizing<Vec<u8>>;

/// The result of a search at one place.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// The length of the longest complete needle; 0 for none.
    pub(super) found: usize,
    /// Whether the output may be the start of a longer needle.
    pub(super) may_be: bool,
}
