-- federation.enqueue: puts the deliveries of a message that was accepted into the outbox, one for each other domain
-- (FED-4). It locks the lanes until the end of the transaction, in the order of domains.
--
--   domains: other domains than the home domain, each once
--   lanes: of each domain the group's lane there, 0 to 15
--   ids, sealed: of each domain the delivery's random id (16 bytes), and its content, sealed under the server's master key
--
-- Returns nothing if all were put in, else for each domain 0 = put in, 1 = refused: this server does not deal with the
-- domain (FED-2), 2 = no room.
--
-- A homeserver that holds room gets as much as it leaves to the next one, and outbox_mib at most: however many homeservers are
-- silent, one more finds some. Those that take what they get have outbox_total_mib, each for itself. Those that do not, or
-- never took anything, leave outbox_reserve_percent of it to the others, and a family of names counts as one, unless the
-- operator allowed the domain. There are max_strangers at most that never took anything, an eighth of these of one family:
-- anybody can name some, by the thousand.
-- Called by ds.submit_message and ds.propose_removal, which have locked the group's row and delivered to queues here.
CREATE OR REPLACE FUNCTION federation.enqueue(lanes smallint[], domains text[], ids bytea[], sealed bytea[])
RETURNS smallint[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    -- Part of what strangers have together that those of one family have.
    parts CONSTANT integer := 8;
    results smallint[] := array_fill(0::smallint, ARRAY[cardinality(domains)]);
    bounds record;
    used bigint := (SELECT coalesce(sum(b.bytes), 0) FROM federation.outbox_bytes b)::bigint;
    delivery record;
    taken bigint;
    known record;
    of_family text;
    -- Bytes that count for the domain, and those that there may be.
    held bigint;
    most bigint;
    -- Strangers for which something waits: their number in each family, and in all, and bytes. Null: not counted yet.
    families jsonb;
    strangers bigint;
    strange_bytes bigint;
BEGIN
    SELECT s.outbox_mib::bigint * 1048576 AS room, s.outbox_total_mib::bigint * 1048576 AS total,
           s.outbox_total_mib::bigint * 1048576 * s.outbox_reserve_percent / 100 AS reserve, s.max_strangers
      INTO STRICT bounds
      FROM federation.settings s;
    FOR delivery IN
        SELECT d.domain, d.lane, d.id, d.sealed, d.place::integer, octet_length(d.sealed) AS bytes
          FROM unnest(domains, lanes, ids, enqueue.sealed) WITH ORDINALITY AS d (domain, lane, id, sealed, place)
         ORDER BY d.domain COLLATE "C"
    LOOP
        IF NOT federation.is_allowed(delivery.domain) THEN
            results[delivery.place] := 1;
            CONTINUE;
        END IF;
        of_family := federation.family(delivery.domain);
        SELECT l.bytes, l.is_stranger, l.waits,
               NOT l.is_stranger AND NOT EXISTS (SELECT FROM federation.attempts a WHERE a.domain = delivery.domain) AS is_good,
               EXISTS (SELECT FROM federation.rules r WHERE r.domain = delivery.domain AND r.rule = 'allowed') AS is_ruled
          INTO STRICT known
          FROM (SELECT coalesce(sum(o.waiting_bytes + o.aside_bytes), 0)::bigint AS bytes,
                       NOT EXISTS (SELECT FROM federation.neighbours n WHERE n.domain = delivery.domain) AS is_stranger,
                       coalesce(sum(o.waiting), 0) > 0 AS waits
                  FROM federation.outgoing_lanes o
                 WHERE o.domain = delivery.domain) l;
        IF known.is_stranger AND families IS NULL THEN
            SELECT coalesce(jsonb_object_agg(f.family, f.number), '{}'), coalesce(sum(f.number), 0)::bigint,
                   coalesce(sum(f.bytes), 0)::bigint
              INTO STRICT families, strangers, strange_bytes
              FROM (SELECT federation.family(d.domain) AS family, count(*) AS number, sum(d.bytes) AS bytes
                      FROM (SELECT l.domain::text AS domain, sum(l.waiting_bytes + l.aside_bytes) AS bytes
                              FROM federation.outgoing_lanes l
                             WHERE l.is_stranger AND l.waiting > 0
                             GROUP BY l.domain) d
                     GROUP BY 1) f;
        END IF;
        IF known.is_stranger AND NOT known.is_ruled
           AND (strange_bytes + delivery.bytes > bounds.room
                OR NOT known.waits
                   AND (strangers >= bounds.max_strangers
                        OR coalesce((families ->> of_family)::bigint, 0::bigint) >= greatest(1, bounds.max_strangers / parts))) THEN
            results[delivery.place] := 2;
            CONTINUE;
        END IF;
        held := CASE WHEN known.is_good OR known.is_ruled THEN known.bytes
                     ELSE (SELECT coalesce(sum(b.bytes), 0)::bigint FROM federation.outbox_bytes b WHERE b.family = of_family)
                END;
        most := least(CASE WHEN known.is_stranger AND NOT known.is_ruled THEN bounds.room / parts ELSE bounds.room END,
                      (bounds.total - used - CASE WHEN known.is_good THEN 0::bigint ELSE bounds.reserve END) / 2);
        IF held + delivery.bytes > most THEN
            results[delivery.place] := 2;
            CONTINUE;
        END IF;
        INSERT INTO federation.outgoing_lanes AS l (
            domain, lane, instance, next_number, waiting, waiting_bytes, is_stranger, last_used)
        VALUES (delivery.domain, delivery.lane, uuid_send(gen_random_uuid()), 2, 1, delivery.bytes, known.is_stranger, today)
        ON CONFLICT ON CONSTRAINT outgoing_lanes_pkey DO UPDATE
           SET next_number = l.next_number + 1, waiting = l.waiting + 1,
               waiting_bytes = l.waiting_bytes + delivery.bytes, last_used = today,
               is_stranger = l.is_stranger AND known.is_stranger
        RETURNING l.next_number - 1 INTO taken;
        INSERT INTO federation.outbox (id, domain, lane, number, sealed, day)
        VALUES (delivery.id, delivery.domain, delivery.lane, taken, delivery.sealed, today);
        PERFORM federation.note_due(delivery.domain, delivery.lane);
        PERFORM federation.count_bytes(delivery.domain, delivery.bytes::bigint);
        used := used + delivery.bytes;
        IF known.is_stranger THEN
            strange_bytes := strange_bytes + delivery.bytes;
            IF NOT known.waits THEN
                strangers := strangers + 1;
                families := families
                    || jsonb_build_object(of_family, coalesce((families ->> of_family)::bigint, 0::bigint) + 1);
            END IF;
        END IF;
    END LOOP;
    RETURN CASE WHEN 0 = ALL (results) THEN '{}' ELSE results END;
END
$$;
