-- federation.settle_lane: ends an attempt that another homeserver answered: what it took leaves the outbox.
--
--   domain, lane, holder, instance: of the attempt
--   last, last_id: number in this instance of the last delivery that was answered, and the id under which it was sent: an
--     empty one has another id than the delivery in whose place it went
--   refused, reasons: ids of those among them that were refused, which are set aside, and why. One that was set aside before for
--     another reason than that it breaks its connections keeps that one when a connection breaks under it: it may be a bad moment
--   gone_groups, gone_addresses: digests of addresses that are gone, and of their groups (32 bytes each)
--   taken_groups: digests of the groups of those that were delivered
--   is_taken: whether it took one at least
--   is_slow: whether it took long
--
-- Returns settled, with reported: those of taken_groups of which addresses are known as gone, which may have taken theirs
-- (federation.note_taken); outdated: the numbering began anew meanwhile, and nothing changes.
-- Called by the server process that made the attempt.
CREATE OR REPLACE FUNCTION federation.settle_lane(
    domain text, lane smallint, holder bytea, instance bytea, last bigint, last_id bytea, refused bytea[], reasons text[],
    gone_groups bytea[], gone_addresses bytea[], taken_groups bytea[], is_taken boolean, is_slow boolean,
    OUT outcome federation.settle_lane_outcome, OUT reported bytea[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    settled record;
    put_aside bigint;
BEGIN
    SELECT l.instance_start + settle_lane.last AS last, l.is_stranger INTO settled
      FROM federation.outgoing_lanes l
     WHERE l.domain = settle_lane.domain AND l.lane = settle_lane.lane AND l.instance = settle_lane.instance
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'outdated';
        PERFORM federation.release_lane(settle_lane.domain, settle_lane.lane, settle_lane.holder);
        RETURN;
    END IF;
    IF settle_lane.refused <> '{}' THEN
        WITH aside AS (
            INSERT INTO federation.set_aside (id, domain, lane, number, sealed, reason, day, retried)
            SELECT o.id, o.domain, o.lane, o.number, o.sealed,
                   CASE WHEN r.reason = 'breaks the connection' THEN coalesce(o.reason, r.reason) ELSE r.reason END, today,
                   o.retried
              FROM unnest(settle_lane.refused, settle_lane.reasons) AS r (id, reason)
              JOIN federation.outbox o ON o.id = r.id
             WHERE o.domain = settle_lane.domain AND o.lane = settle_lane.lane AND o.number <= settled.last
            RETURNING octet_length(sealed) AS bytes
        )
        SELECT coalesce(sum(a.bytes), 0)::bigint INTO STRICT put_aside FROM aside a;
        UPDATE federation.outgoing_lanes l
           SET aside_bytes = l.aside_bytes + put_aside
         WHERE l.domain = settle_lane.domain AND l.lane = settle_lane.lane;
        PERFORM federation.count_bytes(settle_lane.domain, put_aside);
    END IF;
    -- Another attempt may have settled them.
    IF EXISTS (SELECT FROM federation.outbox o
                WHERE o.domain = settle_lane.domain AND o.lane = settle_lane.lane AND o.number = settled.last) THEN
        PERFORM federation.take_from_lane(settle_lane.domain, settle_lane.lane, settled.last);
        UPDATE federation.outgoing_lanes l
           SET settled_id = settle_lane.last_id, is_stranger = l.is_stranger AND NOT is_taken
         WHERE l.domain = settle_lane.domain AND l.lane = settle_lane.lane;
        IF is_taken THEN
            PERFORM federation.note_success(settle_lane.domain);
        END IF;
        IF is_taken AND settled.is_stranger THEN
            -- Rows that others have at this moment follow with their next delivery.
            UPDATE federation.outgoing_lanes l
               SET is_stranger = false
             WHERE (l.domain, l.lane) IN (
                   SELECT o.domain, o.lane
                     FROM federation.outgoing_lanes o
                    WHERE o.domain = settle_lane.domain AND o.is_stranger
                      FOR NO KEY UPDATE SKIP LOCKED);
        END IF;
    END IF;
    IF settle_lane.gone_groups <> '{}' THEN
        PERFORM federation.note_gone(settle_lane.gone_groups, settle_lane.gone_addresses);
    END IF;
    SELECT coalesce(array_agg(DISTINCT g.group_digest), '{}') INTO reported
      FROM federation.gone g
     WHERE g.group_digest = ANY (settle_lane.taken_groups);
    IF is_slow THEN
        PERFORM federation.note_slow(settle_lane.domain);
    ELSIF EXISTS (SELECT FROM federation.due d
                   WHERE d.domain = settle_lane.domain AND d.lane = settle_lane.lane
                     AND d.standing IN ('slow', 'failing', 'stranger'))
          OR EXISTS (SELECT FROM federation.attempts a WHERE a.domain = settle_lane.domain) THEN
        PERFORM federation.recover(settle_lane.domain);
    END IF;
    IF is_taken AND NOT is_slow THEN
        PERFORM federation.note_prompt(settle_lane.domain);
    END IF;
    -- It took the first one.
    UPDATE federation.due d
       SET refusals = 0, breaks = 0, broken_since = NULL
     WHERE d.domain = settle_lane.domain AND d.lane = settle_lane.lane AND (d.refusals > 0 OR d.breaks > 0);
    PERFORM federation.release_lane(settle_lane.domain, settle_lane.lane, settle_lane.holder);
    outcome := 'settled';
END
$$;
