-- The one row that says whose store this is, and the lowest schema version that a program must know to use it.
CREATE TABLE hodei.store (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    store_id uuid NOT NULL,
    needs bigint NOT NULL
);

-- The queue: every job that has not ended, and nothing else, so that what ended long ago slows nobody. Rewritten with
-- each transition, in the place that is left free in its page.
CREATE TABLE hodei.jobs (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    version bigint NOT NULL,
    status smallint NOT NULL,
    worker uuid,
    record text NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX jobs_of_tenant ON hodei.jobs (tenant, id);
CREATE INDEX jobs_of_worker ON hodei.jobs (worker) WHERE worker IS NOT NULL;

-- Jobs that ended, each written once.
CREATE TABLE hodei.history (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    version bigint NOT NULL,
    status smallint NOT NULL,
    ended_at bigint NOT NULL,
    record text NOT NULL
);
CREATE INDEX history_of_tenant ON hodei.history (tenant, id);

-- What never changes of a job, whether it ended or not. There is one row for each job that exists.
CREATE TABLE hodei.specs (
    job uuid PRIMARY KEY,
    spec text NOT NULL,
    labels jsonb
);
CREATE INDEX specs_labels ON hodei.specs USING gin (labels jsonb_path_ops) WHERE labels IS NOT NULL;

-- Idempotency keys; `ended_at` is set once the job is forgotten.
CREATE TABLE hodei.job_keys (
    tenant text NOT NULL,
    job_key text NOT NULL,
    job uuid NOT NULL,
    ended_at bigint,
    PRIMARY KEY (tenant, job_key)
);
CREATE INDEX job_keys_of ON hodei.job_keys (job);
CREATE INDEX job_keys_ended ON hodei.job_keys (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE hodei.workers (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    ended_at bigint,
    record text NOT NULL
);
CREATE INDEX workers_live ON hodei.workers (id) WHERE ended_at IS NULL;
CREATE INDEX workers_ended ON hodei.workers (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE hodei.providers (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    record text NOT NULL
);

-- History and outbox in one. A sequence number is drawn before its transaction commits, so numbers alone do not tell
-- what a reader has missed: readers go by `tx`, up to the oldest transaction that is still open.
CREATE TABLE hodei.events (
    tx xid8 NOT NULL DEFAULT pg_current_xact_id(),
    sequence bigint NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
    id uuid NOT NULL,
    kind smallint NOT NULL,
    aggregate uuid NOT NULL,
    version bigint NOT NULL,
    correlation uuid NOT NULL,
    causation uuid,
    actor smallint NOT NULL,
    at bigint NOT NULL,
    schema smallint NOT NULL,
    event text NOT NULL,
    PRIMARY KEY (tx, sequence)
);
CREATE INDEX events_of ON hodei.events (aggregate, version, sequence);

CREATE TABLE hodei.leases (
    name text PRIMARY KEY,
    epoch bigint NOT NULL,
    holder uuid
);

-- What the daemons say of themselves, again and again: a crash of the database may forget it. Who reaches them where, and
-- which streams of workers they hold, each with how often the worker renewed its lease.
CREATE UNLOGGED TABLE hodei.daemons (
    id uuid PRIMARY KEY,
    beats bigint NOT NULL,
    url text,
    workers uuid[] NOT NULL,
    renewals bigint[] NOT NULL,
    -- What the one that coordinates says of the queue.
    queue text
) WITH (fillfactor = 50);

-- Jobs that somebody put in by SQL and no daemon has taken in yet.
CREATE TABLE hodei.inbox (
    id uuid PRIMARY KEY,
    document jsonb NOT NULL
);

-- Puts a job in, in the transaction of the caller, and returns its id: a JSON object as `hodei job submit --from` takes it,
-- {"command": ["true"]} is enough. What it checks here fails the caller's transaction; what is found wrong with it later,
-- such as a label that is too long, ends the job as FAILED and says so.
CREATE FUNCTION hodei.enqueue(document jsonb) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    job uuid;
    unknown text;
    millis bytea := substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3);
BEGIN
    IF document IS NULL OR jsonb_typeof(document) <> 'object' THEN
        RAISE EXCEPTION 'hodei.enqueue: a job is a JSON object such as {"command": ["true"]}'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT key INTO unknown FROM jsonb_object_keys(document) key WHERE key <> ALL (ARRAY['id', 'name', 'command', 'shell',
        'script', 'interpreter', 'image', 'env', 'working_dir', 'stdin', 'timeout', 'kill_grace', 'resources',
        'constraints', 'priority', 'retry', 'at_most_once', 'idempotency_key', 'concurrency', 'not_before', 'start_by',
        'labels']) LIMIT 1;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'hodei.enqueue: unknown field `%`', unknown USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF num_nonnulls(document -> 'command', document -> 'shell', document -> 'script') <> 1 THEN
        RAISE EXCEPTION 'hodei.enqueue: give it one of command, shell and script'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(document::text) > 4 * 1024 * 1024 THEN
        RAISE EXCEPTION 'hodei.enqueue: the job has % bytes, the limit is 4 MiB', octet_length(document::text)
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    -- A UUID of version 7: the time, then chance.
    job := coalesce((document ->> 'id')::uuid, encode(set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid()) PLACING millis FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid);
    INSERT INTO hodei.inbox (id, document) VALUES (job, document - 'id');
    PERFORM pg_notify('hodei', 'inbox');
    RETURN job;
END $$;

-- Output: how far each log is, and its records, some to a row, as bytes that are not compressed again.
CREATE TABLE hodei.logs (
    job uuid NOT NULL,
    attempt bigint NOT NULL,
    next bigint NOT NULL,
    bytes bigint NOT NULL,
    -- 0 complete, 1 torn.
    ended smallint,
    PRIMARY KEY (job, attempt)
) WITH (fillfactor = 50);
CREATE TABLE hodei.log_rows (
    job uuid NOT NULL,
    attempt bigint NOT NULL,
    first bigint NOT NULL,
    next bigint NOT NULL,
    records bytea NOT NULL,
    PRIMARY KEY (job, attempt, first)
);
ALTER TABLE hodei.log_rows ALTER records SET STORAGE EXTERNAL;
