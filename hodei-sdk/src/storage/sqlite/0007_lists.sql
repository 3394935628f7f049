-- Lists of what ended, by state and by label, without a look at each job: kept by triggers, so that an earlier version that
-- writes here keeps them too.
CREATE INDEX jobs_ended ON jobs (tenant, status, id) WHERE ended_at IS NOT NULL;
CREATE TABLE ended_labels (
    tenant TEXT NOT NULL,
    label TEXT NOT NULL,
    value TEXT NOT NULL,
    status INTEGER NOT NULL,
    job BLOB NOT NULL,
    PRIMARY KEY (tenant, label, value, status, job)
) STRICT, WITHOUT ROWID;
INSERT INTO ended_labels SELECT jobs.tenant, label.key, label.value, jobs.status, jobs.id
    FROM jobs JOIN specs ON specs.job = jobs.id, json_each(specs.spec, '$.labels') AS label
    WHERE jobs.ended_at IS NOT NULL;
-- A spec without labels has no such word outside of its texts: most jobs cost one look.
CREATE TRIGGER jobs_end AFTER UPDATE OF ended_at ON jobs WHEN NEW.ended_at IS NOT NULL BEGIN
    INSERT OR IGNORE INTO ended_labels SELECT NEW.tenant, label.key, label.value, NEW.status, NEW.id
        FROM specs, json_each(specs.spec, '$.labels') AS label
        WHERE specs.job = NEW.id AND instr(specs.spec, '"labels":{"') > 0;
END;
-- One may be stored for the first time after its end.
CREATE TRIGGER jobs_new AFTER INSERT ON jobs WHEN NEW.ended_at IS NOT NULL BEGIN
    INSERT OR IGNORE INTO ended_labels SELECT NEW.tenant, label.key, label.value, NEW.status, NEW.id
        FROM specs, json_each(specs.spec, '$.labels') AS label
        WHERE specs.job = NEW.id AND instr(specs.spec, '"labels":{"') > 0;
END;
