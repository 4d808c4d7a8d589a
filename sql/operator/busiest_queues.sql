-- operator.busiest_queues: lists the queues in which the most messages wait. A queue id is a pseudonym: nothing here leads
-- to a user or a group, and nothing tells how old a queue is, because that would.
--
--   number: how many queues, 1000 at most
--   seconds: how long to look, 60 at most
--
-- Returns their ids, for operator.purge_queue and operator.drop_queue; messages waiting, and their bytes; messages so far;
-- the day (UTC) of the owner's last request; whether all queues were looked at. If not, those that were are a random part.
--
-- Columns of the result (days are UTC):
--
--   queue_id: 16 bytes
--   kind: `group` or `contact`
--   waiting: messages that wait
--   waiting_bytes: bytes of these
--   messages: messages that came so far, since the last restore if there was one
--   last_active: day of the owner's last request
--   all_seen: whether all queues were looked at
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.busiest_queues(number integer DEFAULT 20, seconds integer DEFAULT 5)
RETURNS TABLE (
    queue_id bytea, kind text, waiting bigint, waiting_bytes bigint, messages bigint, last_active date, all_seen boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    batch CONSTANT integer := 10000;
    deadline CONSTANT timestamptz := clock_timestamp() + make_interval(secs => seconds);
    -- Ids are random: from a random one on, any number of queues is a fair sample.
    start CONSTANT bytea := decode(replace(gen_random_uuid()::text, '-', ''), 'hex');
    after bytea := start;
    wrapped boolean := false;
    looked integer;
    next_after bytea;
    best bytea[] := ARRAY[]::bytea[];
BEGIN
    IF number IS NULL OR number NOT BETWEEN 1 AND 1000 OR seconds IS NULL OR seconds NOT BETWEEN 1 AND 60 THEN
        RAISE EXCEPTION 'busiest_queues takes 1 to 1000 queues and 1 to 60 seconds' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    all_seen := false;
    LOOP
        WITH seen AS MATERIALIZED (
            SELECT q.queue_id, q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq) - q.skipped AS waiting
              FROM qs.queues q
             WHERE q.queue_id > after AND (NOT wrapped OR q.queue_id <= start)
             ORDER BY q.queue_id
             LIMIT batch
        ), candidates AS (
            SELECT s.queue_id, s.waiting FROM seen s
             UNION ALL
            SELECT q.queue_id, q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq) - q.skipped
              FROM qs.queues q
             WHERE q.queue_id = ANY (best)
        )
        SELECT (SELECT count(*)::integer FROM seen), (SELECT s.queue_id::bytea FROM seen s ORDER BY s.queue_id DESC LIMIT 1),
               ARRAY(SELECT c.queue_id::bytea FROM candidates c ORDER BY c.waiting DESC, c.queue_id LIMIT number)
          INTO looked, next_after, best;
        IF looked = batch THEN
            after := next_after;
        ELSIF NOT wrapped THEN
            wrapped := true;
            after := '';
        ELSE
            all_seen := true;
        END IF;
        EXIT WHEN all_seen OR clock_timestamp() > deadline;
    END LOOP;
    RETURN QUERY
    SELECT q.queue_id::bytea, q.kind::text, q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq) - q.skipped, q.waiting_bytes::bigint,
           CASE WHEN q.next_seq > g.start THEN q.next_seq - 1 - g.start ELSE q.next_seq - 1 END, q.last_active, all_seen
      FROM qs.queues q
     CROSS JOIN (SELECT coalesce(max(g.number), 0) << 22 FROM operator.generation g) AS g (start)
     WHERE q.queue_id = ANY (best)
     ORDER BY 3 DESC, 1;
END
$$;
