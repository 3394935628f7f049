-- Lists of what ended, by state and by label, without a look at each job: kept by a trigger, so that daemons of an earlier
-- version keep them too.
CREATE INDEX history_of_state ON hodei.history (tenant, status, id);
CREATE TABLE hodei.ended_labels (
    tenant text NOT NULL,
    label text NOT NULL,
    value text NOT NULL,
    status smallint NOT NULL,
    job uuid NOT NULL,
    PRIMARY KEY (tenant, label, value, status, job)
);
INSERT INTO hodei.ended_labels SELECT h.tenant, l.key, l.value, h.status, h.id
    FROM hodei.history h JOIN hodei.specs s ON s.job = h.id, jsonb_each_text(s.labels) l
    WHERE s.labels IS NOT NULL;
CREATE FUNCTION hodei.note_labels() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO hodei.ended_labels SELECT n.tenant, l.key, l.value, n.status, n.id
        FROM ended n JOIN hodei.specs s ON s.job = n.id, jsonb_each_text(s.labels) l
        WHERE s.labels IS NOT NULL ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER history_labels AFTER INSERT ON hodei.history REFERENCING NEW TABLE AS ended
    FOR EACH STATEMENT EXECUTE FUNCTION hodei.note_labels();
