-- What a job that is put in by SQL may have: the next field changes this alone.
CREATE FUNCTION hodei.job_fields() RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY['id', 'name', 'command', 'shell', 'script', 'interpreter', 'image', 'env', 'working_dir', 'stdin', 'timeout',
    'kill_grace', 'resources', 'constraints', 'priority', 'retry', 'at_most_once', 'idempotency_key', 'concurrency',
    'not_before', 'start_by', 'labels', 'secrets', 'inputs', 'outputs', 'keep_workspace'];

-- As before, by these.
CREATE OR REPLACE FUNCTION hodei.enqueue(document jsonb) RETURNS uuid
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
    SELECT key INTO unknown FROM jsonb_object_keys(document) key WHERE key <> ALL (hodei.job_fields()) LIMIT 1;
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
