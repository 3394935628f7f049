//! The rule for names that users give and that become file names.

/// Whether `text` has 1 to `longest` ASCII letters, digits, `_`, `-` and `.`, and does not begin with a dot: such a
/// text is a file name as it stands.
pub(crate) fn is_plain(text: &str, longest: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=longest).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(is_plain)
}
