-- operator.admit_attempt: counts an attempt of a stranger in the present hour, unless the hour's are used up: those of its
-- network address, of one of the networks that the address is in, or of all together.
--
--   kind: what is attempted
--   sources: HMACs of the network address and of the networks that it is in, the narrowest first (32 bytes each)
--   per_source, per_hour: attempts in an hour from one address, and from all
--   network_factor: how many times as many come from a network as from the next narrower one
--   new_sources_percent: part of per_hour that is left to those of whose widest network none came in this hour
--
-- Returns limited: source_limited, server_limited, or null for an attempt that may go on; allowance, the number of
-- attempts in an hour that counted here; and resets_in, the seconds until the next hour begins.
-- Called by auth.admit_registration, auth.count_wrong_reset, federation.introduce_server and rendezvous.join_rendezvous.
CREATE OR REPLACE FUNCTION operator.admit_attempt(
    kind operator.attempt, sources bytea[], per_source integer, network_factor integer, per_hour integer,
    new_sources_percent integer,
    OUT limited text, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    all_sources CONSTANT bytea := '\x'::bytea;
    seconds CONSTANT bigint := floor(extract(epoch FROM now()))::bigint;
    this_hour CONSTANT integer := (seconds / 3600)::integer;
    -- A network of customers, or a few of them, leaves the rest of the hour to everybody else.
    of_known CONSTANT integer := (per_hour - per_hour::bigint * new_sources_percent / 100)::integer;
    bounds CONSTANT integer[] := ARRAY(
        SELECT least(per_source * network_factor::numeric ^ (n.place - 1), 2147483647)::integer
          FROM generate_series(1, cardinality(sources)) n (place));
    of_all integer;
    of_this integer;
    full_network integer;
BEGIN
    resets_in := 3600 - (seconds % 3600)::integer;
    -- A flood of refusals locks nothing and writes nothing. Each network has a row only while all together have attempts
    -- left, which bounds the table.
    SELECT coalesce(max(a.attempts) FILTER (WHERE a.source = all_sources), 0),
           CASE WHEN bool_or(a.source = sources[cardinality(sources)]) THEN of_known ELSE per_hour END,
           (min(n.place) FILTER (WHERE coalesce(a.attempts, 0) >= bounds[n.place]))::integer
      INTO of_all, of_this, full_network
      FROM unnest(sources || all_sources) WITH ORDINALITY n (source, place)
      LEFT JOIN operator.attempts a
             ON a.kind = admit_attempt.kind AND a.source = n.source AND a.hour = this_hour;
    IF full_network IS NULL AND of_all < of_this THEN
        -- From the narrowest to the common row, which is locked last by every transaction.
        FOR place IN 1 .. cardinality(sources) LOOP
            IF NOT operator.count_attempt(admit_attempt.kind, sources[place], this_hour, bounds[place]) THEN
                full_network := place;
                EXIT;
            END IF;
        END LOOP;
    END IF;
    IF full_network IS NOT NULL THEN
        limited := 'source_limited';
        allowance := bounds[full_network];
    ELSIF of_all >= of_this OR NOT operator.count_attempt(admit_attempt.kind, all_sources, this_hour, of_this) THEN
        limited := 'server_limited';
        allowance := of_this;
    ELSE
        allowance := per_source;
    END IF;
END
$$;
