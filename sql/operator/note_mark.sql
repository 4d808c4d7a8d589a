-- operator.note_mark: notes another mark of a server process's witness, if the database still has the one that the process
-- knows: one that was put back to an earlier state has another (QS-12). The 1000 witnesses that were noted last are kept.
--
--   witness: id of the witness (16 bytes)
--   known: marks of which the database has one; null among them: it may have none
--   mark: random bytes (16)
--   decided: number of the operator's last decision that the process knows: after a later one any mark is right
--
-- A database that no server has used yet has the right mark, whatever it is.
--
-- Returns one row: decision, the number of the operator's last decision, and outcome:
--   noted: it is noted
--   behind: the database was put back, or a restore did not come to its end: nothing is noted
--
-- Called by each server process at its start, every minute, and at its end.
CREATE OR REPLACE FUNCTION operator.note_mark(
    witness bytea, known bytea[], mark bytea, decided bigint, OUT outcome operator.note_mark_outcome, OUT decision bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present bytea;
    is_used boolean;
BEGIN
    SELECT g.decided, s.home_domain IS NOT NULL INTO decision, is_used FROM operator.generation g, operator.settings s;
    SELECT w.mark INTO present FROM operator.witnesses w WHERE w.witness = note_mark.witness FOR NO KEY UPDATE;
    IF decision IS NULL
       OR is_used AND decision <= note_mark.decided
          AND NOT EXISTS (SELECT FROM unnest(note_mark.known) AS k (mark) WHERE k.mark IS NOT DISTINCT FROM present) THEN
        outcome := 'behind';
        RETURN;
    END IF;
    INSERT INTO operator.witnesses AS w (witness, mark, noted)
    SELECT note_mark.witness, note_mark.mark, coalesce(max(o.noted), 0) + 1 FROM operator.witnesses o
    ON CONFLICT ON CONSTRAINT witnesses_pkey DO UPDATE SET mark = excluded.mark, noted = excluded.noted;
    IF present IS NULL THEN
        DELETE FROM operator.witnesses w
         WHERE w.witness IN (SELECT o.witness FROM operator.witnesses o ORDER BY o.noted DESC OFFSET 1000);
    END IF;
    outcome := 'noted';
END
$$;
