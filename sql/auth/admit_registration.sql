-- auth.admit_registration: counts an attempt to register, and says whether it may go on (AS-1). This comes before
-- anything dear is done for a stranger, and tells nothing about existing users.
--
--   source: HMAC of the sender's network address (32 bytes)
--   name: the part before @
--
-- Returns admitted, with max_leaf_bytes, the limit of the first client's leaf; source_limited, server_limited: no more
-- attempts are taken in this hour from this address, or from all addresses together; name_reserved: the name, or one
-- like it, is the operator's, or was another user's until lately. With all of them: allowance, the number of attempts in an hour that counted here, and
-- resets_in, the seconds until the next hour begins.
-- Called by POST /as/users.
CREATE OR REPLACE FUNCTION auth.admit_registration(
    source bytea, name text,
    OUT outcome auth.admit_registration_outcome, OUT allowance integer, OUT resets_in integer,
    OUT max_leaf_bytes integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    all_sources CONSTANT bytea := '\x'::bytea;
    seconds CONSTANT bigint := floor(extract(epoch FROM now()))::bigint;
    this_hour CONSTANT integer := (seconds / 3600)::integer;
    of_source integer;
    of_all integer;
    server_allowance integer;
BEGIN
    resets_in := 3600 - (seconds % 3600)::integer;
    SELECT s.registrations_per_source, s.registrations_per_hour, s.max_identity_leaf_bytes
      INTO allowance, server_allowance, max_leaf_bytes
      FROM auth.settings s;
    -- A flood of refusals locks nothing and writes nothing. Each address has a row only while all together have attempts
    -- left, which bounds the table.
    SELECT coalesce(max(a.attempts) FILTER (WHERE a.source = admit_registration.source), 0),
           coalesce(max(a.attempts) FILTER (WHERE a.source = all_sources), 0)
      INTO of_source, of_all
      FROM auth.registration_attempts a
     WHERE a.source IN (admit_registration.source, all_sources) AND a.hour = this_hour;
    IF of_source >= allowance THEN
        outcome := 'source_limited';
        RETURN;
    END IF;
    IF of_all < server_allowance THEN
        -- The common row is locked last, by every transaction.
        IF NOT auth.count_attempt(admit_registration.source, this_hour, allowance) THEN
            outcome := 'source_limited';
            RETURN;
        END IF;
        IF auth.count_attempt(all_sources, this_hour, server_allowance) THEN
            outcome := CASE WHEN EXISTS (SELECT FROM auth.reserved_names r
                                          WHERE r.skeleton = auth.skeleton(admit_registration.name))
                              OR EXISTS (SELECT FROM auth.former_names f
                                          WHERE f.skeleton = auth.skeleton(admit_registration.name))
                            THEN 'name_reserved'::auth.admit_registration_outcome ELSE 'admitted' END;
            RETURN;
        END IF;
    END IF;
    outcome := 'server_limited';
    allowance := server_allowance;
END
$$;
