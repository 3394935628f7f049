-- Secrets, their values sealed: a row stays when a secret is deleted, its value does not.
CREATE TABLE secrets (
    id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
