-- operator.begin_generation: begins another generation, after this database was restored to an earlier state: from a
-- backup, up to a point in time, or by the promotion of a standby that had not everything (QS-12). Servers are stopped
-- meanwhile, or are started anew afterwards.
--
--   The numbers of all queues go on far ahead of any that was given out in the lost time: clients learn of it with their
--     next request, and nothing that comes is taken for what they acknowledged.
--   Tokens that were spent in the lost time cannot be told from others: all issuer keys are revoked, servers make new
--     ones, and clients fetch new tokens. Tokens of other homeservers, which may be spent, are dropped.
--   The numbering of what waits for other homeservers begins anew.
--
--   at_least: least number, if one is known that was given out in the lost time; null: none is
--
-- Returns the number of the generation: by the clock, and greater than those of all days that the database knows. It is an
-- error if the clock shows a day well before one of these and no at_least is given: either it is behind, and a number of the lost
-- time could come once more, or it was ahead then.
-- Called by the operator, and by `postern restore`.
CREATE OR REPLACE FUNCTION operator.begin_generation(at_least bigint DEFAULT NULL, OUT generation bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    start bigint;
    known date;
    lane record;
BEGIN
    SELECT greatest(m.applied, w.day, g.begun, c.day) INTO known
      FROM operator.generation g
      LEFT JOIN operator.calendar c ON true
      LEFT JOIN operator.schema_state m ON true
      LEFT JOIN qs.sweep w ON true;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the database is not whole: a restore did not come to its end'
              USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'restore it once more';
    END IF;
    -- A clock that was ahead for some hours moved the day by two at most (operator.note_day).
    IF known > today + 2 AND begin_generation.at_least IS NULL THEN
        RAISE EXCEPTION 'it is % by the clock of the database server, and the database was in use on %: set the clock right; if it is, and was ahead then, the number is at least %',
              today, known, (known + 1 - date '2020-01-01') * 86400::bigint
              USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'set the clock right first, or give at_least';
    END IF;
    -- A clock that was set back must not give a number twice.
    UPDATE operator.generation g
       SET number = n.number, origin = operator.origin(), begun = today, decided = greatest(g.decided + 1, n.number)
      FROM (SELECT greatest(o.number + 1, begin_generation.at_least,
                            -- But a clock that was decades ahead takes not the last numbers.
                            CASE WHEN known BETWEEN today + 1 AND date '2087-01-01'
                                 THEN (known + 1 - date '2020-01-01') * 86400::bigint END,
                            extract(epoch FROM clock_timestamp() - timestamptz '2020-01-01 00:00:00+00')::bigint) AS number
              FROM operator.generation o) n
    RETURNING g.number INTO generation;
    -- 22 bits are more than the messages that come to a queue in a second, and the sum has 53 bits until 2088, as many as
    -- every client reads.
    start := generation << 22;

    -- Deliveries lock queues one by one: they wait here, and see the new numbers.
    LOCK TABLE qs.queues IN SHARE ROW EXCLUSIVE MODE;
    UPDATE qs.queues q
       SET next_seq = start + 1, last_chain = greatest(q.last_chain, start),
           acked_seq = CASE WHEN w.waiting > 0 THEN q.acked_seq ELSE start END,
           skipped = CASE WHEN w.waiting > 0 THEN start - greatest(q.acked_seq, q.expired_seq) - w.waiting ELSE 0 END,
           waiting_bytes = CASE WHEN w.waiting > 0 THEN q.waiting_bytes ELSE 0 END
      FROM (SELECT n.queue_id, n.next_seq - 1 - greatest(n.acked_seq, n.expired_seq) - n.skipped AS waiting
              FROM qs.queues n) w
     WHERE w.queue_id = q.queue_id;

    PERFORM operator.rotate_issuer_keys(revoke => true);
    DELETE FROM federation.tokens;
    FOR lane IN SELECT l.domain, l.lane FROM federation.outgoing_lanes l ORDER BY l.domain, l.lane FOR NO KEY UPDATE LOOP
        PERFORM federation.renew_lane(lane.domain, lane.lane);
    END LOOP;
    -- Servers that run take over what is there now.
    UPDATE operator.key_version k SET version = k.version + 1;
END
$$;
