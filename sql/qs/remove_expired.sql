-- qs.remove_expired: removes expired rows, one small batch (QS-8): queues without a request of their owner for
-- qs.settings.queue_days, and messages that waited for longer than operator.settings.message_days.
--
--   today: the day (UTC) to count from
--
-- A sweep goes through all queues in the order of their ids, once a day; qs.sweep says where the next batch goes on.
-- Returns more: call again; done: until the day changes; busy: another session is at it.
-- Called by qs.keep_up, and by tests with days to come.
CREATE OR REPLACE FUNCTION qs.remove_expired(today date, OUT outcome qs.keep_up_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
-- Rather give a batch up than hold queues for long: the next one tries again.
SET lock_timeout = '1s' AS $$
DECLARE
    -- A batch looks at so many queues, and removes so many messages; a single queue may have more.
    max_looked CONSTANT integer := 1000;
    max_removed CONSTANT integer := 2000;
    sweep record;
    limits record;
    due bytea[];
    looked integer;
    last_looked bytea;
    all_due boolean;
    inactive bytea[];
    gone record;
    expired bigint;
BEGIN
    SELECT w.day, w.position INTO sweep FROM qs.sweep w WHERE w.singleton FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        outcome := 'busy';
        RETURN;
    ELSIF sweep.day <> today THEN
        sweep.position := '';
    ELSIF sweep.position IS NULL THEN
        outcome := 'done';
        RETURN;
    END IF;
    SELECT today - o.message_days AS oldest_message, today - s.queue_days AS oldest_request
      INTO limits FROM qs.settings s, operator.settings o;

    -- This locks nothing, so that queues where nothing is to be done are not disturbed.
    WITH seen AS MATERIALIZED (
        SELECT q.queue_id, q.last_active, w.waiting, f.enqueued
          FROM (SELECT q.queue_id FROM qs.queues q
                 WHERE q.queue_id > sweep.position
                 ORDER BY q.queue_id
                 LIMIT max_looked) n
          JOIN qs.queues q ON q.queue_id = n.queue_id
         CROSS JOIN LATERAL (SELECT q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq) - q.skipped) AS w (waiting)
          LEFT JOIN LATERAL (SELECT m.enqueued FROM qs.messages m
                              WHERE m.queue_id = q.queue_id AND m.seq > greatest(q.acked_seq, q.expired_seq)
                              ORDER BY m.seq
                              LIMIT 1) f ON w.waiting > 0
    ), candidates AS (
        SELECT s.queue_id, sum(s.waiting) OVER (ORDER BY s.queue_id) AS messages,
               row_number() OVER (ORDER BY s.queue_id) AS place
          FROM seen s
         WHERE s.last_active < limits.oldest_request OR s.enqueued < limits.oldest_message
    )
    SELECT ARRAY(SELECT c.queue_id::bytea FROM candidates c
                  WHERE c.messages <= max_removed OR c.place = 1
                  ORDER BY c.queue_id),
           (SELECT count(*)::integer FROM seen),
           (SELECT s.queue_id::bytea FROM seen s ORDER BY s.queue_id DESC LIMIT 1),
           (SELECT coalesce(bool_and(c.messages <= max_removed OR c.place = 1), true) FROM candidates c)
      INTO due, looked, last_looked, all_due;

    -- Deliveries lock queues in this order, too. The decision is made again, because an owner may
    -- have come meanwhile.
    PERFORM FROM qs.queues q WHERE q.queue_id = ANY (due) ORDER BY q.queue_id FOR UPDATE;
    inactive := ARRAY(SELECT q.queue_id FROM qs.queues q
                       WHERE q.queue_id = ANY (due) AND q.last_active < limits.oldest_request
                       ORDER BY q.queue_id);
    SELECT * INTO gone FROM qs.drop_queues(inactive);

    -- Only whole chains go, because the header that opens a chain comes with its first message. The
    -- chain of the first message to stay began chain_index messages before it. If none stays, the
    -- next message has to start a new chain.
    WITH cut AS (
        SELECT q.queue_id, stays.seq IS NULL AS empty,
               coalesce(stays.seq - stays.chain_index, q.next_seq) - 1 AS seq
          FROM qs.queues q
          LEFT JOIN LATERAL (SELECT m.seq, m.chain_index FROM qs.messages m
                              WHERE m.queue_id = q.queue_id AND m.seq > greatest(q.acked_seq, q.expired_seq)
                                AND m.enqueued >= limits.oldest_message
                              ORDER BY m.seq
                              LIMIT 1) stays ON true
         WHERE q.queue_id = ANY (due)
    ), moved AS (
        UPDATE qs.queues q
           SET expired_seq = c.seq, last_chain = q.last_chain + c.empty::integer,
               skipped = qs.count_skipped(q.queue_id, c.seq, q.next_seq, q.skipped),
               waiting_bytes = greatest(0, q.waiting_bytes - (
                   SELECT coalesce(sum(octet_length(m.ciphertext)), 0)
                     FROM qs.messages m
                    WHERE m.queue_id = q.queue_id
                      AND m.seq > greatest(q.acked_seq, q.expired_seq) AND m.seq <= c.seq))
          FROM cut c
         WHERE q.queue_id = c.queue_id AND c.seq > greatest(q.acked_seq, q.expired_seq)
        RETURNING q.queue_id, q.expired_seq
    ), deleted AS (
        DELETE FROM qs.messages m USING moved v
         WHERE m.queue_id = v.queue_id AND m.seq <= v.expired_seq
        RETURNING m.seq
    )
    SELECT count(*) INTO expired FROM deleted;

    PERFORM qs.count_removed(today, gone.queues, gone.messages, expired, 0);
    UPDATE qs.sweep w
       SET day = today,
           position = CASE WHEN NOT all_due THEN due[cardinality(due)]
                           WHEN looked = max_looked THEN last_looked END
     WHERE w.singleton
    RETURNING CASE WHEN w.position IS NULL THEN 'done'::qs.keep_up_outcome ELSE 'more' END INTO outcome;
END
$$;
