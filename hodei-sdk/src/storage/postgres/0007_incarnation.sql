-- The server, its timeline and the database that `tx` of new events is drawn from, and what is added to it: a store that is
-- restored into another database goes on above every number that was given before, so that no cursor misses or repeats
-- an event.
ALTER TABLE hodei.store ADD COLUMN incarnation text, ADD COLUMN tx_offset bigint NOT NULL DEFAULT 0;
