//! Names of secrets, and the references by which a job asks for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name;

/// The name of a secret: 1 to 128 letters, digits, `_`, `-` and `.`, not beginning with a dot. It is a valid file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

impl SecretName {
    /// Maximum length of a name, in bytes.
    pub const LONGEST: usize = 128;

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = ParseSecretNameError;

    fn from_str(text: &str) -> Result<Self, ParseSecretNameError> {
        if name::is_plain(text, Self::LONGEST) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseSecretNameError(text.chars().filter(|c| !c.is_control()).take(64).collect()))
        }
    }
}

impl TryFrom<String> for SecretName {
    type Error = ParseSecretNameError;

    fn try_from(text: String) -> Result<Self, ParseSecretNameError> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a valid name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a valid name of a secret: use 1 to 128 letters, digits, `_`, `-` or `.`, and do not begin with a dot"
)]
pub struct ParseSecretNameError(String);

/// A reference of a job to a secret, with the way of its delivery.
///
/// As text, `NAME` or `NAME:stdin`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretRef {
    /// Name of the secret.
    pub name: SecretName,
    /// How the job gets it.
    pub inject: SecretInjection,
}

/// How a job gets a secret. The environment is not offered: child processes inherit it, and other processes can read
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretInjection {
    /// As a file with the name of the secret, in the directory that `HODEI_SECRETS_DIR` names.
    #[default]
    File,
    /// In a JSON object, from name to value, on standard input, which ends after it.
    Stdin,
}

impl FromStr for SecretRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, inject) = match text.split_once(':') {
            None | Some((_, "file")) => (text.split(':').next().unwrap_or(text), SecretInjection::File),
            Some((name, "stdin")) => (name, SecretInjection::Stdin),
            Some(_) => {
                return Err(format!("`{text}` is not a reference to a secret: write NAME or NAME:stdin"));
            }
        };
        Ok(Self { name: name.parse().map_err(|error: ParseSecretNameError| error.to_string())?, inject })
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inject {
            SecretInjection::File => write!(f, "{}", self.name),
            SecretInjection::Stdin => write!(f, "{}:stdin", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_file_name_is_a_valid_name() {
        for name in ["a", "db-password", "A.b_1", &"x".repeat(128)] {
            assert_eq!(name.parse::<SecretName>().unwrap().as_str(), name);
        }
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "ä", "a:b", &"x".repeat(129)] {
            assert!(name.parse::<SecretName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_reference_round_trips_as_text() {
        for text in ["db", "db:stdin"] {
            assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
        }
        assert_eq!("db:file".parse::<SecretRef>().unwrap().inject, SecretInjection::File);
        assert!("db:env".parse::<SecretRef>().is_err() && ":stdin".parse::<SecretRef>().is_err());
    }
}
