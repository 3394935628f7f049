-- Refuses a job that is put in by SQL and that no worker could start, or that no store could order: as `check_new` and
-- `check_new_id` of hodei-core do. What these cannot see, such as all arguments together, ends the job as FAILED.
CREATE FUNCTION hodei.check_job(document jsonb) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    id uuid := (document ->> 'id')::uuid;
    longest bigint;
    asked numeric;
    ahead bigint;
BEGIN
    IF id IS NOT NULL THEN
        IF get_byte(uuid_send(id), 6) >> 4 <> 7 OR get_byte(uuid_send(id), 8) >> 6 <> 2 THEN
            RAISE EXCEPTION 'hodei.enqueue: id is not a UUID of version 7, whose first 48 bits are milliseconds since 1970'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        ahead := ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint
            - (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
        IF ahead > 24 * 3600 * 1000 THEN
            RAISE EXCEPTION 'hodei.enqueue: id is a UUID whose time lies more than a day ahead: look at the clock of its maker'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    IF jsonb_typeof(document -> 'command') = 'array' THEN
        SELECT max(octet_length(word)) INTO longest FROM jsonb_array_elements_text(document -> 'command') word;
        IF longest > 131071 THEN
            RAISE EXCEPTION 'hodei.enqueue: command has % bytes in one argument; the limit is 131071', longest
                USING ERRCODE = 'program_limit_exceeded';
        END IF;
    END IF;
    longest := octet_length(document ->> 'shell');
    IF longest > 131071 THEN
        RAISE EXCEPTION 'hodei.enqueue: shell has % bytes in one line, too long for `sh -c`: give it as a script; the limit is 131071', longest
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    IF jsonb_typeof(document -> 'env') = 'object' THEN
        SELECT max(octet_length(key) + 1 + octet_length(value)) INTO longest FROM jsonb_each_text(document -> 'env');
        IF longest > 131071 THEN
            RAISE EXCEPTION 'hodei.enqueue: env has % bytes in one NAME=VALUE; the limit is 131071', longest
                USING ERRCODE = 'program_limit_exceeded';
        END IF;
    END IF;
    IF jsonb_typeof(document #> '{resources,memory_bytes}') = 'number' THEN
        asked := (document #>> '{resources,memory_bytes}')::numeric;
        IF asked > 0 AND asked < 1048576 THEN
            RAISE EXCEPTION 'hodei.enqueue: resources.memory_bytes is below 1048576, in which no program runs: it is in bytes, so 64 MiB are 67108864'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
    IF jsonb_typeof(document #> '{resources,cpu_millis}') = 'number' THEN
        asked := (document #>> '{resources,cpu_millis}')::numeric;
        IF asked > 0 AND asked < 10 THEN
            RAISE EXCEPTION 'hodei.enqueue: resources.cpu_millis is below 10: it is in thousandths of a processor, of which the kernel counts no fewer'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
END $$;

-- As before, with that.
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
    PERFORM hodei.check_job(document);
    -- A UUID of version 7: the time, then chance.
    job := coalesce((document ->> 'id')::uuid, encode(set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid()) PLACING millis FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid);
    INSERT INTO hodei.inbox (id, document) VALUES (job, document - 'id');
    PERFORM pg_notify('hodei', 'inbox');
    RETURN job;
END $$;
