-- Long specs as lists show them: without input, environment and the text of a script.
CREATE TABLE listings (
    job BLOB NOT NULL PRIMARY KEY,
    spec TEXT NOT NULL
) STRICT, WITHOUT ROWID;
