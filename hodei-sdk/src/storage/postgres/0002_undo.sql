-- Undoes the statement that calls it: what it stored is not what it expected.
CREATE FUNCTION hodei.undo() RETURNS integer LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'hodei: somebody else wrote in between; this is looked at and tried again' USING ERRCODE = 'HO001';
END $$;
