-- operator.queue_depths: shows how full the mailboxes are: the number of queues by kind and by how many messages wait
-- in each, the messages of all of them together, their bytes, and the day (UTC) of the oldest.
--
-- Columns of the result (days are UTC):
--
--   kind: `group` or `contact`
--   waiting: range of messages that wait in a queue
--   queues: number of such queues
--   messages: messages that wait in them, together
--   bytes: bytes of these
--   oldest: day of the oldest of them
--
-- Called by the operator and by monitoring. It looks at every queue.
CREATE OR REPLACE FUNCTION operator.queue_depths()
RETURNS TABLE (kind text, waiting text, queues bigint, messages bigint, bytes bigint, oldest date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT q.kind,
           CASE c.class WHEN 0 THEN '0' WHEN 1 THEN '1-9' WHEN 2 THEN '10-99' WHEN 3 THEN '100-999'
                        WHEN 4 THEN '1000-9999' ELSE '10000 and more' END,
           count(*), sum(w.waiting)::bigint,
           coalesce(sum(q.waiting_bytes) FILTER (WHERE w.waiting > 0), 0)::bigint, min(f.enqueued)
      FROM qs.queues q
     CROSS JOIN LATERAL (SELECT q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq) - q.skipped) AS w (waiting)
     CROSS JOIN LATERAL (SELECT width_bucket(w.waiting, ARRAY[1, 10, 100, 1000, 10000])) AS c (class)
      LEFT JOIN LATERAL (SELECT m.enqueued FROM qs.messages m
                          WHERE m.queue_id = q.queue_id AND m.seq > greatest(q.acked_seq, q.expired_seq)
                          ORDER BY m.seq
                          LIMIT 1) f ON w.waiting > 0
     GROUP BY q.kind, c.class
     ORDER BY q.kind, c.class
$$;
