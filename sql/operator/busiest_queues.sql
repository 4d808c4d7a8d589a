-- operator.busiest_queues: the queues that get the most messages for each day of their lives. A
-- queue id is a pseudonym: nothing here leads to a user or a group.
--
-- number: how many queues.
-- Returns their ids, for operator.purge_queue and operator.drop_queue; messages so far, on
-- average per day, and waiting; deposits today (UTC); days of the owner's last request and of
-- the queue's creation.
-- Looks at every queue. Called by the operator.
CREATE OR REPLACE FUNCTION operator.busiest_queues(number integer DEFAULT 20)
RETURNS TABLE (queue_id bytea, kind text, messages bigint, per_day numeric, waiting bigint, deposits_today integer,
               last_active date, created date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT q.queue_id, q.kind, q.next_seq - 1, d.per_day, q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq),
           CASE q.deposit_day WHEN t.today THEN q.deposit_count ELSE 0 END, q.last_active, q.created
      FROM qs.queues q
     CROSS JOIN (SELECT (now() AT TIME ZONE 'UTC')::date) AS t (today)
     CROSS JOIN LATERAL (SELECT round((q.next_seq - 1) / (t.today - q.created + 1.0), 1)) AS d (per_day)
     ORDER BY d.per_day DESC, q.queue_id
     LIMIT number
$$;
