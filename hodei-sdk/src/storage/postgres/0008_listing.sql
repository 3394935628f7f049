-- A spec as lists show it, where it is long: without input, environment and the text of a script.
ALTER TABLE hodei.specs ADD COLUMN listing text;
