-- Tokens for clients: their hashes, never themselves.
CREATE TABLE hodei.tokens (
    id uuid PRIMARY KEY,
    version bigint NOT NULL,
    record text NOT NULL
);
