//! Labels, and the constraints that jobs put on the labels of workers.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The labels of a job or of a worker.
pub type Labels = BTreeMap<String, String>;

/// A condition on a worker's labels, written `key op value`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Constraint {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Test {
    Eq(String),
    Ne(String),
    Gt(String),
    Lt(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
}

impl Constraint {
    /// Returns the label that the constraint tests.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether `labels` meet the constraint. A missing label meets only NE and NOTIN. GT and LT compare numbers, and
    /// are never met where one side is not a number.
    pub fn is_met_by(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let compare = |wanted: &str| {
            let number = |text: &str| text.parse::<f64>().ok();
            number(value?).zip(number(wanted)).and_then(|(have, want)| have.partial_cmp(&want))
        };
        match &self.test {
            Test::Eq(wanted) => value == Some(wanted),
            Test::Ne(unwanted) => value != Some(unwanted),
            Test::Gt(wanted) => compare(wanted) == Some(std::cmp::Ordering::Greater),
            Test::Lt(wanted) => compare(wanted) == Some(std::cmp::Ordering::Less),
            Test::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
            Test::NotIn(unwanted) => !value.is_some_and(|value| unwanted.contains(value)),
            Test::Exists => value.is_some(),
        }
    }
}

impl FromStr for Constraint {
    type Err = ParseConstraintError;

    fn from_str(text: &str) -> Result<Self, ParseConstraintError> {
        let refuse = |why| ParseConstraintError { text: text.chars().take(80).collect(), why };
        let mut words = text.trim().splitn(3, char::is_whitespace);
        let key = words.next().filter(|key| !key.is_empty()).ok_or_else(|| refuse("the key is missing"))?;
        let op = words.next().ok_or_else(|| refuse("the operator is missing"))?;
        let value = words.next().map(str::trim).filter(|value| !value.is_empty());
        let needed = || value.map(str::to_owned).ok_or_else(|| refuse("the value is missing"));
        let number = || {
            let value = needed()?;
            value.parse::<f64>().map_err(|_| refuse("GT and LT need a number as their value"))?;
            Ok(value)
        };
        let list = || Ok(needed()?.split(',').map(|item| item.trim().to_owned()).collect());
        let test = match op.to_ascii_uppercase().as_str() {
            "EQ" | "=" | "==" => Test::Eq(needed()?),
            "NE" | "!=" => Test::Ne(needed()?),
            "GT" | ">" => Test::Gt(number()?),
            "LT" | "<" => Test::Lt(number()?),
            "IN" => Test::In(list()?),
            "NOTIN" => Test::NotIn(list()?),
            "EXISTS" if value.is_none() => Test::Exists,
            "EXISTS" => return Err(refuse("EXISTS takes no value")),
            _ => return Err(refuse("the operator is unknown")),
        };
        Ok(Self { key: key.to_owned(), test })
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::Eq(value) => write!(f, "{key} EQ {value}"),
            Test::Ne(value) => write!(f, "{key} NE {value}"),
            Test::Gt(value) => write!(f, "{key} GT {value}"),
            Test::Lt(value) => write!(f, "{key} LT {value}"),
            Test::In(values) => write!(f, "{key} IN {}", values.join(",")),
            Test::NotIn(values) => write!(f, "{key} NOTIN {}", values.join(",")),
            Test::Exists => write!(f, "{key} EXISTS"),
        }
    }
}

/// The text is not a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a constraint: {why}; write `key op value` with EQ, NE, GT, LT, IN, NOTIN or EXISTS, such as `region IN eu,us`"
)]
pub struct ParseConstraintError {
    text: String,
    why: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(constraint: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        constraint.parse::<Constraint>().unwrap().is_met_by(&labels)
    }

    #[test]
    fn each_operator_tests_the_labels() {
        let labels = &[("os", "linux"), ("cores", "16")][..];
        for yes in
            ["os EQ linux", "os = linux", "os NE mac", "cores GT 8", "cores < 16.5", "os IN mac, linux"]
        {
            assert!(met(yes, labels), "{yes}");
        }
        for no in ["os EQ mac", "os != linux", "cores GT 16", "os GT 3", "os NOTIN linux,mac", "gpu EXISTS"] {
            assert!(!met(no, labels), "{no}");
        }
        assert!(met("gpu NE a100", labels) && met("gpu NOTIN a,b", labels) && met("os EXISTS", labels));
    }

    #[test]
    fn a_parse_error_names_its_reason() {
        for (text, why) in [
            ("", "key is missing"),
            ("os", "operator is missing"),
            ("os LIKE x", "operator is unknown"),
            ("os EQ", "value is missing"),
            ("cores GT many", "need a number"),
            ("os EXISTS yes", "takes no value"),
        ] {
            let error = text.parse::<Constraint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
