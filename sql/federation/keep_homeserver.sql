-- federation.keep_homeserver: keeps the description of another domain's homeserver, which the caller has verified, and pins
-- its keys.
--
--   domain: another domain than the home domain
--   description: byte for byte
--   content: digest of what it says, without its times (32 bytes)
--   base_url, issued, expires: of the description
--   keys, not_before, not_after: those that are trusted from now on, each 32 bytes, and the times between which each
--     signs, in seconds since 1970
--   revoked: those that the homeserver revoked
--
-- Returns kept; blocked: the operator does not let this server deal with the domain; outdated: a later description,
-- which is not of a time to come, is here; key_of_another: a key is pinned to another domain, and nothing is kept.
-- Called by the server process that fetched the description.
CREATE OR REPLACE FUNCTION federation.keep_homeserver(
    domain text, description bytea, content bytea, base_url text, issued bigint, expires bigint, keys bytea[],
    not_before bigint[], not_after bigint[], revoked bytea[],
    OUT outcome federation.keep_homeserver_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    idle text;
    kept_keys bigint;
    today CONSTANT date := operator.today();
BEGIN
    IF NOT federation.is_allowed(keep_homeserver.domain) THEN
        outcome := 'blocked';
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM federation.homeservers h WHERE h.domain = keep_homeserver.domain)
       AND (SELECT count(*) >= (SELECT s.max_homeservers FROM federation.settings s) FROM federation.homeservers) THEN
        idle := federation.idle_homeserver();
        DELETE FROM federation.homeservers h WHERE h.domain = idle;
        -- One that delivers here, or has tokens, is known by its keys without a description.
        DELETE FROM federation.homeserver_keys k
         WHERE k.domain = idle AND k.distrusted IS NULL AND k.not_after IS NOT NULL
           AND NOT EXISTS (SELECT FROM federation.incoming_lanes l WHERE l.domain = idle)
           AND NOT EXISTS (SELECT FROM aas.takers t WHERE t.domain = idle);
    END IF;
    INSERT INTO federation.homeservers AS h (domain, description, content, base_url, issued, expires, seen)
    VALUES (keep_homeserver.domain, keep_homeserver.description, keep_homeserver.content, keep_homeserver.base_url,
            keep_homeserver.issued, keep_homeserver.expires, today)
    ON CONFLICT ON CONSTRAINT homeservers_pkey DO UPDATE
       SET (description, content, base_url, issued, expires, seen)
         = ROW(excluded.description, excluded.content, excluded.base_url, excluded.issued, excluded.expires, excluded.seen)
     WHERE h.issued <= excluded.issued OR federation.is_of_the_future(h.issued);
    IF NOT FOUND THEN
        outcome := 'outdated';
        RETURN;
    END IF;
    -- A key that the operator distrusted stays so. In the order of keys: two of these at a time wait for each other in one
    -- direction.
    INSERT INTO federation.homeserver_keys AS h (public_key, domain, pinned, not_before, not_after)
    SELECT k.public_key, keep_homeserver.domain, today, k.not_before, k.not_after
      FROM unnest(keep_homeserver.keys, keep_homeserver.not_before, keep_homeserver.not_after)
        AS k (public_key, not_before, not_after)
     ORDER BY k.public_key
    ON CONFLICT ON CONSTRAINT homeserver_keys_pkey DO UPDATE
       SET (not_before, not_after) = ROW(excluded.not_before, excluded.not_after)
     WHERE h.domain = excluded.domain;
    GET DIAGNOSTICS kept_keys = ROW_COUNT;
    -- The key of another domain, which may have been pinned at this very moment.
    IF kept_keys < cardinality(keep_homeserver.keys) THEN
        RAISE unique_violation USING MESSAGE = 'a key is pinned to another domain';
    END IF;
    UPDATE federation.homeserver_keys k
       SET distrusted = today
     WHERE k.domain = keep_homeserver.domain AND k.public_key = ANY (keep_homeserver.revoked) AND k.distrusted IS NULL;
    INSERT INTO federation.looks AS l (domain, looked) VALUES (keep_homeserver.domain, now())
    ON CONFLICT ON CONSTRAINT looks_pkey DO UPDATE SET (looked, failures) = ROW(excluded.looked, 0);
    outcome := 'kept';
EXCEPTION WHEN unique_violation THEN
    outcome := 'key_of_another';
END
$$;
