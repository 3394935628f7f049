-- Long specs move into a table whose rows are found without reading them: without a row number of its own, each step of
-- a search reads the whole text that it compares with. `specs` keeps of them what lists show.
CREATE TABLE long_specs (
    job BLOB NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
) STRICT;
INSERT INTO long_specs SELECT job, spec FROM specs WHERE octet_length(spec) > 4096;
UPDATE specs SET spec = coalesce(
        (SELECT listings.spec FROM listings WHERE listings.job = specs.job),
        json_replace(spec, '$.stdin', '', '$.env', json('{}'),
            '$.command.script.source', substr(spec ->> '$.command.script.source', 1, 61)))
    WHERE octet_length(spec) > 4096;
DROP TABLE listings;
-- An earlier version would run what lists show.
UPDATE hodei SET needs = max(needs, 8);
