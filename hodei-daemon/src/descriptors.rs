//! The limit of descriptors: a daemon needs one for each connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of descriptors to the hard limit. Returns the former soft limit, or `None` if it did not
/// change. Agents and jobs keep the former limit: a high one harms programs that use `select`, or that close all
/// possible descriptors.
pub(crate) fn raise_limit() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    if before.current == before.maximum {
        return None;
    }
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    setrlimit(Resource::Nofile, raised).ok().and(before.current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_once_and_the_former_one_is_returned() {
        let before = getrlimit(Resource::Nofile);
        let lower = before.current.unwrap_or(1024).min(512);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), maximum: before.maximum }).unwrap();
        assert_eq!((raise_limit(), raise_limit()), (Some(lower), None));
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
