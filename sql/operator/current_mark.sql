-- operator.current_mark: shows to a server process whether this database is still the one that it wrote to last (QS-12). One
-- that was put back to an earlier state, as by a snapshot, has an earlier mark of its witness, however much was written since.
--
--   witness: id of the process's witness, a file outside of the database; null: it has none
--
-- Returns one row; none if a restore did not come to its end.
--
-- Columns of the result:
--
--   undecided: as operator.current_generation shows it
--   decided: number of the operator's last decision about the generation: after a later one any mark is right; null: no server
--     has used the database yet, so that nothing can be lost
--   mark: what operator.note_mark noted last for the witness; null: nothing
--
-- Called by each server process with every new session.
CREATE OR REPLACE FUNCTION operator.current_mark(witness bytea)
RETURNS TABLE (undecided text, decided bigint, mark bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.undecided, CASE WHEN s.home_domain IS NOT NULL THEN g.decided END, w.mark
      FROM operator.current_generation() c
     CROSS JOIN operator.generation g
     CROSS JOIN operator.settings s
      LEFT JOIN operator.witnesses w ON w.witness = current_mark.witness
$$;
