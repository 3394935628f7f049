-- The one row that says whose store this is, and the lowest schema version that a program must know to use it.
CREATE TABLE hodei (
    only_row INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    store_id BLOB NOT NULL,
    needs INTEGER NOT NULL
) STRICT;

-- Hot: rewritten with each transition. What never changes lies in `specs`.
CREATE TABLE jobs (
    id BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    version INTEGER NOT NULL,
    status INTEGER NOT NULL,
    worker BLOB,
    ended_at INTEGER,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_open ON jobs (id) WHERE ended_at IS NULL;
CREATE INDEX jobs_of_worker ON jobs (worker) WHERE worker IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

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

-- History and outbox in one. AUTOINCREMENT: a number is never given twice, whatever retention deletes.
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
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
