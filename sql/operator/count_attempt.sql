-- operator.count_attempt: counts one attempt of a stranger in an hour, unless the hour's are used up.
--
--   kind: what is attempted
--   source: HMAC of a network address, of a network, or of a signer's key, or empty for all addresses together
--   hour: hours since 1970
--   allowance: attempts in an hour
--
-- Returns false if they are used up.
-- Called by operator.admit_attempt and aas.count_refusal.
CREATE OR REPLACE FUNCTION operator.count_attempt(
    kind operator.attempt, source bytea, hour integer, allowance integer) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO operator.attempts AS a (kind, source, hour, attempts)
    SELECT count_attempt.kind, count_attempt.source, count_attempt.hour, 1 WHERE allowance > 0
    ON CONFLICT ON CONSTRAINT attempts_pkey DO UPDATE
       SET hour = excluded.hour,
           attempts = CASE a.hour WHEN excluded.hour THEN a.attempts + 1 ELSE 1 END
     WHERE a.hour <> excluded.hour OR a.attempts < allowance;
    RETURN FOUND;
END
$$;
