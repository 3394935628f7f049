-- Where this database was opened last, as JSON: its path, and the numbers that the file system has for it and for its
-- directory. A copy has others.
ALTER TABLE hodei ADD COLUMN place TEXT;
