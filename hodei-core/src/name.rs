//! Names that people give and that become names of files.

/// Up to `longest` letters, digits, `_`, `-` and `.`, at least one and not a dot first: a name of a file as it stands, and
/// no other than that.
pub(crate) fn is_plain(text: &str, longest: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=longest).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(is_plain)
}
