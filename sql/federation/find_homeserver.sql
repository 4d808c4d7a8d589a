-- federation.find_homeserver: finds the description of another domain's homeserver (FED-1), and what a look at it has to
-- know.
--
--   domain: another domain than the home domain
--   fresh: whether a description that was fetched more than a minute ago is too old; it always is where the last attempt to
--     deliver to the homeserver failed, which may have moved
--
-- Returns kept, with the description; due: look, with the description that there is, if there is one that has not
-- expired and is not of a time to come; failing: the last looks failed, and the next one is not due yet, with the same;
-- blocked: the operator does not let this server deal with the domain; too_many: the homeserver is unknown, and no more can be
-- kept, since all are in use. With due go the keys of the domain that are trusted, and those that are not. A key that has ended
-- is trusted only if all have: somebody may have found it since.
-- Called by server processes that need the description, and by federation.show_homeserver, federation.relay_request,
-- federation.relay_token_request and federation.introduce_server.
CREATE OR REPLACE FUNCTION federation.find_homeserver(
    domain text, fresh boolean,
    OUT outcome federation.find_homeserver_outcome, OUT description bytea, OUT trusted bytea[], OUT distrusted bytea[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    settings federation.settings;
    kept federation.homeservers;
    looks federation.looks;
    age interval;
    longest integer := 3600;
    is_fresh_needed CONSTANT boolean := find_homeserver.fresh
        OR EXISTS (SELECT FROM federation.attempts a WHERE a.domain = find_homeserver.domain AND a.state = 'failing');
BEGIN
    IF NOT federation.is_allowed(find_homeserver.domain) THEN
        outcome := 'blocked';
        RETURN;
    END IF;
    SELECT * INTO STRICT settings FROM federation.settings;
    SELECT * INTO kept FROM federation.homeservers h WHERE h.domain = find_homeserver.domain;
    SELECT * INTO looks FROM federation.looks l WHERE l.domain = find_homeserver.domain;
    age := now() - looks.looked;
    -- People here wait for a neighbour that is back, also where nothing is to be delivered to it.
    IF looks.failures > 0
       AND (federation.is_proven(find_homeserver.domain)
            OR EXISTS (SELECT FROM federation.outbox o WHERE o.domain = find_homeserver.domain)) THEN
        longest := least(longest, settings.retry_seconds);
    END IF;
    IF kept.expires >= extract(epoch FROM now()) AND NOT federation.is_of_the_future(kept.issued) THEN
        description := kept.description;
    END IF;
    -- A look far in the future was noted by a clock that was wrong.
    IF age < interval '-2 hours' OR looks.failures > 0 AND age < interval '-10 seconds' THEN
        looks := NULL;
        age := NULL;
    END IF;
    IF looks.failures > 0 AND age < least(60 * 2 ^ (least(looks.failures, 10) - 1), longest) * interval '1 second' THEN
        outcome := 'failing';
    ELSIF description IS NOT NULL AND looks.failures = 0
          AND age < (CASE WHEN is_fresh_needed THEN 1 ELSE settings.description_minutes END) * interval '1 minute' THEN
        outcome := 'kept';
    ELSIF kept.domain IS NULL AND (SELECT count(*) FROM federation.homeservers) >= settings.max_homeservers
          AND NOT EXISTS (SELECT FROM federation.homeserver_keys k
                           WHERE k.domain = find_homeserver.domain AND k.distrusted IS NULL)
          AND federation.idle_homeserver() IS NULL THEN
        outcome := 'too_many';
    ELSE
        outcome := 'due';
        SELECT coalesce(array_agg(k.public_key) FILTER (WHERE k.is_current),
                        array_agg(k.public_key) FILTER (WHERE k.distrusted IS NULL), '{}'),
               coalesce(array_agg(k.public_key) FILTER (WHERE k.distrusted IS NOT NULL), '{}')
          INTO trusted, distrusted
          FROM (SELECT h.public_key, h.distrusted,
                       h.distrusted IS NULL AND coalesce(h.not_after >= extract(epoch FROM now()), true) AS is_current
                  FROM federation.homeserver_keys h
                 WHERE h.domain = find_homeserver.domain) k;
    END IF;
END
$$;
