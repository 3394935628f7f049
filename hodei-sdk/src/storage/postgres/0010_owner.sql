-- The owner of the workers that belong to this store; that of its id where this is null. A store that is restored into
-- another server or database gets another owner: the one that it was copied from may go on.
ALTER TABLE hodei.store ADD COLUMN owner uuid;
