-- operator.note_standbys: notes whether each commit waits for each standby, in the database itself: so one that is
-- promoted knows whether it may lack something (operator.current_generation). While commits hang, and while the operator
-- has to decide about a generation that no server serves, it stays as it was. After the promotion of a standby with
-- everything servers go on, and the standbys of that one count: the next promotion is judged by itself.
--
-- Called by each server process every few seconds.
CREATE OR REPLACE FUNCTION operator.note_standbys() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    waits boolean;
BEGIN
    IF pg_is_in_recovery() OR operator.missing_standbys() > 0
       OR (SELECT g.undecided FROM operator.current_generation() g) NOT IN ('no', 'timeline') THEN
        RETURN;
    END IF;
    SELECT coalesce(bool_and(s.waited_for = 'each commit'), false) INTO waits FROM operator.standbys() s;
    IF EXISTS (SELECT FROM operator.generation g
                WHERE g.waited <> waits OR g.followed IS DISTINCT FROM operator.origin()) THEN
        UPDATE operator.generation g SET waited = waits, followed = operator.origin();
    END IF;
END
$$;
