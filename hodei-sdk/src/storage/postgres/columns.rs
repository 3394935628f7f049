//! Columns that statements select, for the readers in `row`.

/// Selects the columns of [`row::job`](super::row::job) from all jobs, open and ended.
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

/// Selects the same columns from open jobs, with this expression for their specs.
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

/// Selects open jobs with the part of their specs that lists show.
macro_rules! select_listed {
    ($rest:literal) => {
        select_open!("coalesce(s.listing, s.spec)", $rest)
    };
}

/// Selects the columns of [`row::envelope`](super::row::envelope). None of them has a type that the driver must first
/// look up in the database, which it cannot do through a pooler.
macro_rules! select_events {
    ($rest:literal) => {
        concat!(
            "SELECT sequence, id, kind, aggregate, version, correlation, causation, actor, at, schema, event ",
            $rest
        )
    };
}

pub(super) use {select_events, select_jobs, select_listed, select_open};
