-- aas.due_issuer_keys: lists the token types, of those that the server issues, that need a new key: no key will issue
-- for longer than the overlap (AAS-5). A key that a client fetched yesterday from the directory goes on issuing for
-- that long. One that begins much later was made while a clock was ahead, and does not count.
--
-- Called by each server process at its start, hourly, and when the operator rotates keys; and by aas.add_issuer_key,
-- under its lock.
CREATE OR REPLACE FUNCTION aas.due_issuer_keys(token_types integer[])
RETURNS TABLE (token_type integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.token_type
      FROM unnest(due_issuer_keys.token_types) AS t (token_type)
     WHERE NOT EXISTS (SELECT FROM aas.issuer_keys k, aas.settings s
                        WHERE k.token_type = t.token_type
                          AND k.not_after > (now() AT TIME ZONE 'UTC')::date + s.overlap_days
                          AND k.not_before <= (now() AT TIME ZONE 'UTC')::date + greatest(s.overlap_days, 3))
$$;
