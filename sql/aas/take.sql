-- aas.take: takes tokens from the day's allowance of any taker, for aas.take_allowance, whose arguments and results
-- these are.
--
-- Overrides count before defaults; an allowance for a token type is part of the whole. A user's default grows with the
-- days on which it took tokens, a domain's with those since it took a delivery of this server.
--
-- Called by aas.take_allowance.
CREATE OR REPLACE FUNCTION aas.take(
    taker uuid, digest bytea, token_types integer[], numbers integer[],
    OUT outcome aas.take_allowance_outcome, OUT allowance integer, OUT remaining integer, OUT resets_in integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Repeats of a request that are free; the server computes its answer anew for each.
    free_repeats CONSTANT integer := 8;
    asked bigint;
    -- Whether the request came before; null once it was repeated too often to be free.
    repeated boolean;
    -- Whether this is the first request of the day.
    begins_day boolean;
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    resets_in := ceil(extract(epoch FROM (today + 1) - (now() AT TIME ZONE 'UTC')))::integer;
    -- Concurrent requests of one taker queue up here; each statement from here on sees what the
    -- requests before took.
    PERFORM FROM aas.takers t WHERE t.taker = take.taker FOR NO KEY UPDATE;

    INSERT INTO aas.requests AS r (taker, digest, day) VALUES (take.taker, take.digest, today)
    ON CONFLICT ON CONSTRAINT requests_pkey DO UPDATE
       SET repeats = r.repeats + 1
     WHERE r.repeats < free_repeats
    RETURNING r.repeats > 0 INTO repeated;

    begins_day := NOT EXISTS (SELECT FROM aas.issued i WHERE i.taker = take.taker AND i.day = today);
    SELECT a.tokens, (a.tokens - a.taken - a.asked)::integer, a.asked
      INTO allowance, remaining, asked
      FROM (SELECT coalesce(
                       (SELECT a.tokens FROM aas.allowances a
                         WHERE a.taker = take.taker AND a.token_type IS NULL),
                       CASE WHEN t.user_id IS NULL
                            THEN least(s.homeserver_allowance,
                                       s.new_homeserver_allowance * 10::numeric ^ federation.neighbour_days(t.domain))::integer
                            ELSE least(s.daily_allowance,
                                       s.new_user_allowance * (t.days + begins_day::integer)::bigint)::integer END),
                   (SELECT coalesce(sum(i.tokens), 0) FROM aas.issued i
                     WHERE i.taker = take.taker AND i.day = today),
                   (SELECT sum(n) FROM unnest(numbers) n)
              FROM aas.settings s, aas.takers t
             WHERE t.taker = take.taker
            UNION ALL
            SELECT a.tokens,
                   (SELECT coalesce(sum(i.tokens), 0) FROM aas.issued i
                     WHERE i.taker = take.taker AND i.day = today AND i.token_type = o.token_type),
                   o.number
              FROM unnest(token_types, numbers) AS o (token_type, number),
                   LATERAL (SELECT a.tokens FROM aas.allowances a
                             WHERE a.token_type = o.token_type
                               AND (a.taker = take.taker OR a.taker IS NULL)
                             ORDER BY a.taker NULLS LAST LIMIT 1) a
           ) AS a (tokens, taken, asked)
     ORDER BY 2
     LIMIT 1;

    IF repeated THEN
        -- The request takes nothing more.
        outcome := 'granted';
        remaining := greatest(0, remaining + asked)::integer;
        RETURN;
    END IF;
    IF remaining < 0 THEN
        DELETE FROM aas.requests r
         WHERE NOT repeated AND r.taker = take.taker AND r.digest = take.digest;
        outcome := 'used_up';
        remaining := greatest(0, remaining + asked)::integer;
        RETURN;
    END IF;
    IF begins_day THEN
        UPDATE aas.takers t
           SET days = t.days + 1
          FROM aas.settings s
         WHERE t.taker = take.taker AND t.user_id IS NOT NULL
           AND s.new_user_allowance * t.days::bigint < s.daily_allowance;
    END IF;
    INSERT INTO aas.issued AS i (taker, day, token_type, tokens)
    SELECT take.taker, today, o.token_type, o.number
      FROM unnest(token_types, numbers) AS o (token_type, number)
    ON CONFLICT ON CONSTRAINT issued_pkey DO UPDATE SET tokens = i.tokens + excluded.tokens;
    outcome := 'granted';
END
$$;
