-- operator.forget_attempts: forgets attempts of strangers in hours that are over.
--
--   kinds: what was attempted
--
-- Called by aas.clean_up, auth.clean_up and rendezvous.clean_up.
CREATE OR REPLACE FUNCTION operator.forget_attempts(kinds operator.attempt[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM operator.attempts a
     WHERE a.kind = ANY (forget_attempts.kinds) AND a.hour < floor(extract(epoch FROM now()) / 3600)::integer
$$;
