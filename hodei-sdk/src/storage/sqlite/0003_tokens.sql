-- Tokens for clients: their hashes, never themselves.
CREATE TABLE tokens (
    id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
