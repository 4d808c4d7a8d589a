-- aas.forget_signatures: forgets the signatures that are stale: those that were used neither in the present span nor in the one
-- before. A span ends once ten minutes have passed by the caller's clock, as by it a signature is fresh or not, and by the
-- database's: where one of the two leaps ahead, the other says how long it was.
--
--   clock: the caller's time (seconds since 1970)
--
-- Called by each server process every minute.
CREATE OR REPLACE FUNCTION aas.forget_signatures(clock bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- A transaction that began before a clock was set goes by what it is now.
    here CONSTANT bigint := floor(extract(epoch FROM clock_timestamp()))::bigint;
    -- Signatures are fresh for so long. By the clock of one server that is behind, a span is not over for all the others.
    is_behind CONSTANT boolean := forget_signatures.clock < here - 300;
BEGIN
    -- A clock that was set back counts the span from its present time on.
    UPDATE aas.signature_span s
       SET begun_by_server = CASE WHEN is_behind THEN s.begun_by_server
                                  ELSE least(s.begun_by_server, forget_signatures.clock) END,
           begun_by_database = least(s.begun_by_database, here)
     WHERE s.begun_by_server > forget_signatures.clock AND NOT is_behind OR s.begun_by_database > here;
    UPDATE aas.signature_span s
       SET span = (s.span + 1) % 3, begun_by_server = forget_signatures.clock, begun_by_database = here
     WHERE s.begun_by_server <= forget_signatures.clock - 600 AND s.begun_by_database <= here - 600;
    IF FOUND THEN
        DELETE FROM aas.used_signatures u
         USING aas.signature_span s
         WHERE u.span = (s.span + 1) % 3;
    END IF;
END
$$;
