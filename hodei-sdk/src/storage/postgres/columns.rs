//! The columns that statements select, for the readers of `row`.

/// The columns of [`row::job`](super::row::job), from every job that there is.
macro_rules! select_jobs {
    ($rest:literal) => {
        concat!(
            "SELECT j.id, j.tenant, j.record, s.spec FROM (SELECT id, tenant, status, record FROM hodei.jobs \
             UNION ALL SELECT id, tenant, status, record FROM hodei.history) j \
             JOIN hodei.specs s ON s.job = j.id ",
            $rest
        )
    };
}

/// The same, from those that are open, with this of their specs.
macro_rules! select_open {
    ($spec:literal, $rest:literal) => {
        concat!(
            "SELECT j.id, j.tenant, j.record, ",
            $spec,
            " FROM hodei.jobs j JOIN hodei.specs s ON s.job = j.id ",
            $rest
        )
    };
}

/// What lists show of a spec.
macro_rules! select_listed {
    ($rest:literal) => {
        select_open!("coalesce(s.listing, s.spec)", $rest)
    };
}

/// The columns of [`row::envelope`](super::row::envelope): none of a type that the driver would ask the database about first, which it cannot
/// through a pooler.
macro_rules! select_events {
    ($rest:literal) => {
        concat!(
            "SELECT sequence, id, kind, aggregate, version, correlation, causation, actor, at, schema, event ",
            $rest
        )
    };
}

pub(super) use {select_events, select_jobs, select_listed, select_open};
