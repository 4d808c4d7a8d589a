-- operator.note_backup: notes that a backup of this database succeeded just now, so that operator.health tells when none
-- does any more. `postern backup` notes its own; other tools are to be followed by a call.
--
-- Called by the operator, and by `postern backup`.
CREATE OR REPLACE FUNCTION operator.note_backup() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE operator.last_backup b SET day = operator.today()
$$;
