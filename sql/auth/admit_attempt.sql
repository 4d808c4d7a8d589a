-- auth.admit_attempt: counts an attempt of a stranger in the present hour, unless the hour's are used up: those of its
-- network address, or those of all addresses together.
--
--   source: HMAC of the network address (32 bytes)
--   all_sources: row that counts all addresses together
--   per_source, per_hour: attempts in an hour from one address, and from all
--
-- Returns limited: source_limited, server_limited, or null for an attempt that may go on; allowance, the number of
-- attempts in an hour that counted here; and resets_in, the seconds until the next hour begins.
-- Called by auth.admit_registration and auth.admit_reset.
CREATE OR REPLACE FUNCTION auth.admit_attempt(
    source bytea, all_sources bytea, per_source integer, per_hour integer,
    OUT limited text, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
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
           coalesce(max(a.attempts) FILTER (WHERE a.source = admit_attempt.all_sources), 0)
      INTO of_source, of_all
      FROM auth.registration_attempts a
     WHERE a.source IN (admit_attempt.source, admit_attempt.all_sources) AND a.hour = this_hour;
    IF of_source >= per_source
       OR of_all < per_hour AND NOT auth.count_attempt(admit_attempt.source, this_hour, per_source) THEN
        limited := 'source_limited';
    ELSIF of_all >= per_hour
          -- The common row is locked last, by every transaction.
          OR NOT auth.count_attempt(admit_attempt.all_sources, this_hour, per_hour) THEN
        limited := 'server_limited';
        allowance := per_hour;
    END IF;
END
$$;
