//! The limit of descriptors: a daemon has one for each connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of descriptors to the hard one. Returns the soft limit of before, for the agents and their jobs:
/// a program that uses `select`, or closes all that it could have open, suffers from a high one. `None` when it stays as
/// it is.
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
