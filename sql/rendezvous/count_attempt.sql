-- rendezvous.count_attempt: counts one attempt to join in an hour, unless the hour's are used up.
--
--   source: HMAC of a network address, or empty for all together
--   hour: hours since 1970
--   allowance: attempts in an hour
--
-- Returns false if they are used up.
-- Called by rendezvous.join_rendezvous.
CREATE OR REPLACE FUNCTION rendezvous.count_attempt(source bytea, hour integer, allowance integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO rendezvous.attempts AS a (source, hour, attempts)
    SELECT count_attempt.source, count_attempt.hour, 1 WHERE allowance > 0
    ON CONFLICT ON CONSTRAINT attempts_pkey DO UPDATE
       SET hour = excluded.hour,
           attempts = CASE a.hour WHEN excluded.hour THEN a.attempts + 1 ELSE 1 END
     WHERE a.hour <> excluded.hour OR a.attempts < allowance;
    RETURN FOUND;
END
$$;
