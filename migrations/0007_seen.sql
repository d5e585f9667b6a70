-- One statement that is a transaction by itself has no moment in which its writer could look whether the rows were
-- still as it saw them. So the statement looks, and refuses itself:
--   CT008  a row is no longer as its writer saw it: nothing of the statement was written; read again, decide again
CREATE FUNCTION require_unchanged(p_found bigint, p_wanted bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF p_found <> p_wanted THEN
        RAISE EXCEPTION '% of % rows are still as they were seen', p_found, p_wanted USING ERRCODE = 'CT008';
    END IF;
    RETURN p_found;
END $$;
