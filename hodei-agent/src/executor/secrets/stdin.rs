//! Secrets on standard input, as a JSON object.

use bytes::Bytes;
use hodei_core::secret::{SecretName, SecretValue};
use zeroize::Zeroizing;

use super::look::Wiped;

/// Returns a JSON object from names to values, in memory that is overwritten when the last reference is dropped.
///
/// # Errors
/// A message that names a secret whose value is not UTF-8.
pub(super) fn object(secrets: &[(&SecretName, &SecretValue)]) -> Result<Bytes, String> {
    // Reserves all room at once, since a growing buffer leaves copies behind. A byte takes six at most, as in `\u0000`.
    let room = secrets.iter().map(|(name, value)| name.as_str().len() + 6 * value.expose().len() + 6);
    let mut text = Zeroizing::new(Vec::with_capacity(2 + room.sum::<usize>()));
    text.push(b'{');
    for (number, (name, value)) in secrets.iter().enumerate() {
        let escaped = std::str::from_utf8(value.expose()).map(json_escaped);
        let escaped = escaped.map_err(|_| {
            format!("the secret `{name}` is not valid UTF-8 and cannot be passed on standard input: inject it as a file")
        })?;
        if number > 0 {
            text.push(b',');
        }
        text.extend_from_slice(format!("\"{name}\":\"").as_bytes());
        text.extend_from_slice(&escaped);
        text.push(b'"');
    }
    text.push(b'}');
    Ok(Bytes::from_owner(text))
}

/// Escapes a text for a JSON string.
fn json_escaped(text: &str) -> Wiped {
    let mut escaped = Zeroizing::new(Vec::with_capacity(text.len() * 6));
    let mut buffer = [0; 4];
    for character in text.chars() {
        match character {
            '"' => escaped.extend_from_slice(b"\\\""),
            '\\' => escaped.extend_from_slice(b"\\\\"),
            '\n' => escaped.extend_from_slice(b"\\n"),
            '\r' => escaped.extend_from_slice(b"\\r"),
            '\t' => escaped.extend_from_slice(b"\\t"),
            '\0'..='\u{1f}' => {
                escaped.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes())
            }
            _ => escaped.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes()),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(bytes: &[u8]) -> SecretValue {
        SecretValue::new(bytes.to_vec()).unwrap()
    }

    #[test]
    fn secrets_on_standard_input_are_one_json_object() {
        let (db, web) = ("db".parse().unwrap(), "web".parse().unwrap());
        let (first, second) = (value(b"a\"b\\\n\x01"), value("pässword".as_bytes()));
        let object = object(&[(&db, &first), (&web, &second)]).unwrap();
        assert_eq!(object, r#"{"db":"a\"b\\\n\u0001","web":"pässword"}"#.as_bytes());
    }

    #[test]
    fn a_value_that_is_not_utf8_is_refused_by_name() {
        let name = "key".parse().unwrap();
        assert!(object(&[(&name, &value(&[0xff; 8]))]).unwrap_err().contains("`key`"));
    }
}
