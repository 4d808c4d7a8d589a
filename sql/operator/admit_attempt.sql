-- operator.admit_attempt: counts an attempt of a stranger in the present hour, unless the hour's are used up: those of its
-- network address, or those of all addresses together.
--
--   kind: what is attempted
--   source: HMAC of the network address (32 bytes)
--   per_source, per_hour: attempts in an hour from one address, and from all
--
-- Returns limited: source_limited, server_limited, or null for an attempt that may go on; allowance, the number of
-- attempts in an hour that counted here; and resets_in, the seconds until the next hour begins.
-- Called by auth.admit_registration, auth.count_wrong_reset and rendezvous.join_rendezvous.
CREATE OR REPLACE FUNCTION operator.admit_attempt(
    kind operator.attempt, source bytea, per_source integer, per_hour integer,
    OUT limited text, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    all_sources CONSTANT bytea := '\x'::bytea;
    seconds CONSTANT bigint := floor(extract(epoch FROM now()))::bigint;
    this_hour CONSTANT integer := (seconds / 3600)::integer;
    of_source integer;
    of_all integer;
BEGIN
    resets_in := 3600 - (seconds % 3600)::integer;
    allowance := per_source;
    -- A flood of refusals locks nothing and writes nothing. Each address has a row only while all together have attempts
    -- left, which bounds the table.
    SELECT coalesce(max(a.attempts) FILTER (WHERE a.source = admit_attempt.source), 0),
           coalesce(max(a.attempts) FILTER (WHERE a.source = all_sources), 0)
      INTO of_source, of_all
      FROM operator.attempts a
     WHERE a.kind = admit_attempt.kind AND a.source IN (admit_attempt.source, all_sources) AND a.hour = this_hour;
    IF of_source >= per_source
       OR of_all < per_hour
          AND NOT operator.count_attempt(admit_attempt.kind, admit_attempt.source, this_hour, per_source) THEN
        limited := 'source_limited';
    ELSIF of_all >= per_hour
          -- The common row is locked last, by every transaction.
          OR NOT operator.count_attempt(admit_attempt.kind, all_sources, this_hour, per_hour) THEN
        limited := 'server_limited';
        allowance := per_hour;
    END IF;
END
$$;
