-- The one row that says whose store this is, and the lowest schema version that a program must know to use it.
CREATE TABLE hodei (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    store_id BLOB NOT NULL,
    needs INTEGER NOT NULL,
    -- The last number of an event that was forgotten: none is given twice.
    forgotten INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Hot: rewritten with each transition. What never changes lies in `specs`. Each index costs a page a commit, so
-- there is one: ids are in the order of time, which is what retention goes by.
CREATE TABLE jobs (
    id BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    version INTEGER NOT NULL,
    status INTEGER NOT NULL,
    worker BLOB,
    ended_at INTEGER,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_open ON jobs (id, worker) WHERE ended_at IS NULL;

CREATE TABLE specs (
    job BLOB NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Idempotency keys; `ended_at` is set once the job is forgotten.
CREATE TABLE job_keys (
    tenant TEXT NOT NULL,
    job_key TEXT NOT NULL,
    job BLOB NOT NULL,
    ended_at INTEGER,
    PRIMARY KEY (tenant, job_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_keys_of ON job_keys (job);
CREATE INDEX job_keys_ended ON job_keys (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE workers (
    id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    ended_at INTEGER,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX workers_live ON workers (id) WHERE ended_at IS NULL;
CREATE INDEX workers_ended ON workers (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE providers (
    id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- History and outbox in one.
CREATE TABLE events (
    sequence INTEGER NOT NULL PRIMARY KEY,
    id BLOB NOT NULL,
    kind INTEGER NOT NULL,
    aggregate BLOB NOT NULL,
    version INTEGER NOT NULL,
    correlation BLOB NOT NULL,
    causation BLOB,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL,
    schema INTEGER NOT NULL,
    event TEXT NOT NULL
) STRICT;
CREATE INDEX events_of ON events (aggregate);

CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    epoch INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
