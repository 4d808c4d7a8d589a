-- operator.busiest_queues: lists the queues that got the most messages so far. A queue id is a pseudonym: nothing here
-- leads to a user or a group, and nothing tells how old a queue is, because that would.
--
--   number: how many queues
--
-- Returns their ids, for operator.purge_queue and operator.drop_queue; messages so far; messages waiting; deposits
-- today (UTC); the day (UTC) of the owner's last request.
-- Called by the operator. It looks at every queue.
CREATE OR REPLACE FUNCTION operator.busiest_queues(number integer DEFAULT 20)
RETURNS TABLE (queue_id bytea, kind text, messages bigint, waiting bigint, deposits_today integer, last_active date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT q.queue_id, q.kind, q.next_seq - 1, q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq),
           CASE q.deposit_day WHEN (now() AT TIME ZONE 'UTC')::date THEN q.deposit_count ELSE 0 END, q.last_active
      FROM qs.queues q
     ORDER BY q.next_seq DESC, q.queue_id
     LIMIT number
$$;
