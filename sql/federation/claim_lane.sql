-- federation.claim_lane: claims a lane of the outbox that is due, for one attempt at its first deliveries (FED-4). Families
-- of names take turns: of the next one, the lane that is due for longest. A domain that failed, or never took anything, is
-- tried by one lane at a time, and a slow one by as many as have room on its line (federation.has_room).
--
--   standing: of the domains to look at
--   holder: random id of the attempt, 16 bytes
--   seconds: time for which nobody else gets the lane
--   most, most_bytes: deliveries, and bytes of them, to return at most; the first one is returned, however large it is
--   after: family whose turn was the last one; '': none was
--   busy: families of which there are attempts enough
--
-- Returns claimed, with family, domain, lane, instance, first: the number of the first delivery in this instance, before:
-- the id of the delivery before it (null: there is none), of each delivery its id and content, is_last_try: whether the
-- first one is set aside if its homeserver refuses it once more, is_apart: whether each request has a connection of its own,
-- since one broke under the first one, or others that were on it, or the first one is retried, and is_last_break: whether that
-- one is set aside if its own connection breaks once more, which is its fifth break at least and ten minutes after the first;
-- none: nothing is due, with family: the last one that was looked at, where there are many. A delivery that was refused, or
-- broke a connection of its own, comes alone, also on a later day; and so does the first of those that go on connections of
-- their own while their domain failed, or never took anything: where connections break late, an attempt ends before halving does.
-- Called by each server process, when a message was accepted and each second.
CREATE OR REPLACE FUNCTION federation.claim_lane(
    standing text, holder bytea, seconds integer, most integer, most_bytes bigint, after text, busy text[],
    OUT outcome federation.claim_lane_outcome, OUT family text, OUT domain text, OUT lane smallint, OUT instance bytea,
    OUT first bigint, OUT before bytea, OUT ids bytea[], OUT sealed bytea[], OUT is_last_try boolean, OUT is_apart boolean,
    OUT is_last_break boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    leased_until CONSTANT timestamptz := now() + seconds * interval '1 second';
    last_try CONSTANT integer := (SELECT s.refused_attempts - 1 FROM federation.settings s);
    -- Breaks before the last one, and time since the first.
    last_break CONSTANT integer := 4;
    breaking CONSTANT interval := interval '10 minutes';
    most_families CONSTANT integer := 200;
    most_refused CONSTANT integer := 100;
    turn text := after;
    first_turn text;
    looked integer := 0;
    -- Slow domains without room, which leave their families' turns to others.
    crowded text[] := ARRAY[]::text[];
    is_crowded boolean := false;
    here record;
    first_one bigint;
    is_retried boolean;
    is_alone boolean;
BEGIN
    outcome := 'none';
    family := after;
    IF (SELECT d.due > now()
          FROM federation.due d
         WHERE d.standing = claim_lane.standing
         ORDER BY d.due
         LIMIT 1) IS NOT FALSE THEN
        RETURN;
    END IF;
    WHILE looked < most_families LOOP
        looked := looked + 1;
        IF NOT is_crowded THEN
            -- After the last family, it is the first one's turn.
            turn := coalesce(
                (SELECT d.family FROM federation.due d
                  WHERE d.standing = claim_lane.standing AND d.family > turn
                  ORDER BY d.family
                  LIMIT 1),
                (SELECT d.family FROM federation.due d
                  WHERE d.standing = claim_lane.standing
                  ORDER BY d.family
                  LIMIT 1));
            EXIT WHEN turn IS NULL OR turn = first_turn;
            first_turn := coalesce(first_turn, turn);
        END IF;
        is_crowded := false;
        family := turn;
        CONTINUE WHEN turn = ANY (busy);
        SELECT d.domain::text AS domain, d.lane, d.refusals, d.apart_to, d.breaks, d.broken_since INTO here
          FROM federation.due d
         WHERE d.standing = claim_lane.standing AND d.family = turn AND d.due <= now() AND d.domain <> ALL (crowded)
         ORDER BY d.due
         LIMIT 1
           FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        IF claim_lane.standing = 'slow' AND NOT federation.has_room(here.domain, here.lane) THEN
            crowded := array_append(crowded, here.domain);
            is_crowded := true;
            CONTINUE;
        END IF;
        domain := here.domain;
        lane := here.lane;
        IF NOT federation.is_allowed(claim_lane.domain) THEN
            -- No claim looks at them any more, until a rule changes.
            UPDATE federation.due d
               SET standing = 'refused', due = now() + interval '1 minute', holder = NULL
             WHERE (d.domain, d.lane) IN (
                   SELECT o.domain, o.lane
                     FROM federation.due o
                    WHERE o.standing = claim_lane.standing AND o.family = turn AND o.due <= now()
                      AND NOT federation.is_allowed(o.domain)
                    ORDER BY o.due
                    LIMIT most_refused
                      FOR UPDATE SKIP LOCKED);
            CONTINUE;
        END IF;
        UPDATE federation.due d
           SET due = leased_until, holder = claim_lane.holder
         WHERE d.domain = claim_lane.domain AND d.lane = claim_lane.lane;
        IF claim_lane.standing IN ('failing', 'stranger') THEN
            UPDATE federation.due d
               SET due = leased_until
             WHERE (d.domain, d.lane) IN (
                   SELECT o.domain, o.lane
                     FROM federation.due o
                    WHERE o.domain = claim_lane.domain AND o.lane <> claim_lane.lane AND o.due < leased_until
                      FOR UPDATE SKIP LOCKED);
        END IF;
        is_alone := here.refusals > 0 OR here.breaks > 0
            OR claim_lane.standing IN ('failing', 'stranger')
               AND here.apart_to >= (SELECT min(q.number)
                                       FROM federation.outbox q
                                      WHERE q.domain = claim_lane.domain AND q.lane = claim_lane.lane);
        SELECT l.instance, b.first, b.first - l.instance_start, l.settled_id, b.ids, b.sealed, b.is_retried
          INTO instance, first_one, first, before, ids, sealed, is_retried
          FROM federation.outgoing_lanes l,
               LATERAL (SELECT min(o.number) AS first, array_agg(o.id ORDER BY o.number) AS ids,
                               array_agg(o.sealed ORDER BY o.number) AS sealed,
                               bool_or(o.retried > 0) FILTER (WHERE o.place = 1) AS is_retried
                          FROM (SELECT n.*, sum(octet_length(n.sealed)) OVER (ORDER BY n.number) AS bytes,
                                       row_number() OVER (ORDER BY n.number) AS place,
                                       -- Those up to this one, which is among them.
                                       count(*) FILTER (WHERE n.retried > 0) OVER (ORDER BY n.number) AS retried_ones
                                  FROM (SELECT q.id, q.number, q.sealed, q.retried
                                          FROM federation.outbox q
                                         WHERE q.domain = claim_lane.domain AND q.lane = claim_lane.lane
                                         ORDER BY q.number
                                         LIMIT CASE WHEN is_alone THEN 1 ELSE most END) n) o
                         WHERE o.bytes <= most_bytes AND o.retried_ones = 0 OR o.place = 1) b
         WHERE l.domain = claim_lane.domain AND l.lane = claim_lane.lane;
        IF ids IS NOT NULL THEN
            is_last_try := is_retried OR here.refusals >= last_try;
            is_apart := is_retried OR first_one <= here.apart_to;
            is_last_break := is_retried OR here.breaks >= last_break AND here.broken_since <= now() - breaking;
            outcome := 'claimed';
            RETURN;
        END IF;
        -- Nothing waits there any more. The row of the lane is not locked: whoever puts something in has that first.
        DELETE FROM federation.due d WHERE d.domain = claim_lane.domain AND d.lane = claim_lane.lane;
    END LOOP;
END
$$;
