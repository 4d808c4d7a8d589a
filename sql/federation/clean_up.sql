-- federation.clean_up: drops the gateway's keys whose validity ended before yesterday (clocks differ), descriptions that
-- nobody needed for a month, those that were shown before today, looks of more than a day ago, and tokens, lanes and
-- addresses that are gone after their days, whatever a clock says that is ahead for some hours (operator.note_day). Of a
-- homeserver without a description and a rule that neither took deliveries nor made any, nothing is left: any name can
-- come once. Rows that count the same bytes are put together.
--
-- Called by each server process hourly.
CREATE OR REPLACE FUNCTION federation.clean_up() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.note_day();
BEGIN
    -- A statement that deletes nothing would tell all processes of a change, too.
    IF EXISTS (SELECT FROM federation.gateway_keys k WHERE k.not_after < today - 1) THEN
        DELETE FROM federation.gateway_keys k WHERE k.not_after < today - 1;
    END IF;
    DELETE FROM federation.homeservers h WHERE h.seen < today - 30;
    DELETE FROM federation.shown s WHERE s.day < today;
    DELETE FROM federation.prompt_homeservers p WHERE p.noted < now() - interval '1 day';
    DELETE FROM federation.looks l WHERE l.looked < now() - interval '1 day';
    DELETE FROM federation.tokens t WHERE t.day < today - 60;
    DELETE FROM federation.refills r WHERE r.asked + r.seconds * interval '1 second' < now() - interval '1 day';
    DELETE FROM federation.gone g WHERE g.last_day < today - (SELECT s.gone_days FROM federation.settings s);
    -- The other homeserver keeps its row for longer: a lane that begins anew has another instance.
    DELETE FROM federation.outgoing_lanes l
     WHERE l.last_used < today - 60 AND l.waiting = 0 AND l.aside_bytes = 0
       AND NOT EXISTS (SELECT FROM federation.set_aside s WHERE s.domain = l.domain AND s.lane = l.lane);
    DELETE FROM federation.neighbours n
     WHERE n.last_success < today - 60
       AND NOT EXISTS (SELECT FROM federation.outgoing_lanes l WHERE l.domain = n.domain);
    DELETE FROM federation.incoming_lanes l WHERE l.last_used < today - 120;
    DELETE FROM aas.takers t
     WHERE t.domain IS NOT NULL AND federation.is_forgotten(t.domain)
       AND NOT EXISTS (SELECT FROM aas.allowances a WHERE a.taker = t.taker)
       AND NOT EXISTS (SELECT FROM aas.issued i WHERE i.taker = t.taker);
    -- Keys that the operator trusts or distrusts stay.
    DELETE FROM federation.homeserver_keys k
     WHERE k.distrusted IS NULL AND k.not_after IS NOT NULL AND k.pinned < today - 30
       AND federation.is_forgotten(k.domain)
       AND NOT EXISTS (SELECT FROM aas.takers t WHERE t.domain = k.domain);
    WITH counted AS (
        DELETE FROM federation.outbox_bytes b
         WHERE (b.family, b.part) IN (SELECT o.family, o.part FROM federation.outbox_bytes o FOR UPDATE SKIP LOCKED)
        RETURNING b.family, b.bytes
    )
    INSERT INTO federation.outbox_bytes (family, part, bytes)
    SELECT c.family, gen_random_uuid(), sum(c.bytes)::bigint FROM counted c GROUP BY c.family HAVING sum(c.bytes) <> 0;
END
$$;
