-- operator.counts: counts users, clients, queues and groups, and those of them that were active lately. It looks at all of
-- them: some seconds for each million queues.
--
-- Active users are counted for each of two days. Of queues and groups the last day is known only, so that those which were
-- active yesterday and are today could not be counted for yesterday: the two days (UTC) count together.
--
-- Columns of the result:
--
--   figure: its name
--   label: what it is of; null: it is the only one of its name
--   value: how many
--
-- Called by the operator and by monitoring; by each server process for metrics, every few minutes, and by `postern status`.
CREATE OR REPLACE FUNCTION operator.counts()
RETURNS TABLE (figure text, label text, value double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH clock AS (
        SELECT (now() AT TIME ZONE 'UTC')::date AS today
    ), queues AS (
        SELECT q.kind, count(*) AS queues, count(*) FILTER (WHERE q.last_active >= c.today - 1) AS active,
               sum(w.waiting) AS messages,
               count(*) FILTER (
                   WHERE w.waiting * 10 >= 9 * CASE q.kind WHEN 'group' THEN s.group_queue_depth::bigint
                                                           ELSE s.contact_queue_depth END
                      OR q.waiting_bytes * 10 >= 9 * 1024 * CASE q.kind WHEN 'group' THEN s.group_queue_kib::bigint
                                                                        ELSE s.contact_queue_kib END) AS full_ones
          FROM clock c, qs.settings s, qs.queues q
         CROSS JOIN LATERAL (SELECT q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq) - q.skipped) AS w (waiting)
         GROUP BY q.kind
    )
    SELECT f.figure, NULL, f.value
      FROM (SELECT count(*) AS users, count(*) FILTER (WHERE u.suspended) AS suspended FROM auth.users u) u,
           LATERAL (VALUES ('users', u.users), ('suspended_users', u.suspended)) AS f (figure, value)
    UNION ALL
    SELECT 'clients', NULL, count(*) FROM auth.clients
    UNION ALL
    SELECT 'active_users', d.label,
           (SELECT count(DISTINCT i.taker) FROM aas.issued i JOIN aas.takers t USING (taker)
             WHERE i.day = d.day AND t.user_id IS NOT NULL)
      FROM clock c, LATERAL (VALUES ('today', c.today), ('yesterday', c.today - 1)) AS d (label, day)
    UNION ALL
    SELECT f.figure, k.kind, f.value
      FROM unnest(ARRAY['contact', 'group']) AS k (kind)
      LEFT JOIN queues q ON q.kind = k.kind,
           LATERAL (VALUES ('queues', coalesce(q.queues, 0)), ('active_queues', coalesce(q.active, 0)),
                           ('queued_messages', coalesce(q.messages, 0)), ('full_queues', coalesce(q.full_ones, 0)))
               AS f (figure, value)
    UNION ALL
    SELECT 'groups', f.label, f.value
      FROM clock c,
           LATERAL (SELECT count(*) AS groups, count(*) FILTER (WHERE g.last_used >= c.today - 1) AS active
                      FROM ds.groups g) g,
           LATERAL (VALUES ('all', g.groups), ('active', g.active)) AS f (label, value)
$$;
