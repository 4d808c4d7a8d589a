-- operator.queue_limits: lists every limit of the mailboxes, its value, and its meaning. Other services read the last of
-- them, too.
--
-- Columns of the result:
--
--   name: as operator.set_queue_limit takes it
--   value: the limit now
--   meaning: what it bounds, and in which unit
--
-- Called by the operator and by monitoring; by operator.set_queue_limit.
CREATE OR REPLACE FUNCTION operator.queue_limits()
RETURNS TABLE (name text, value integer, meaning text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname::text, (s.settings ->> a.attname)::integer, col_description(a.attrelid, a.attnum)
      FROM (SELECT q.tableoid, to_jsonb(q) FROM qs.settings q
             UNION ALL
            SELECT o.tableoid, to_jsonb(o) FROM operator.settings o) AS s (relation, settings)
      JOIN pg_attribute a ON a.attrelid = s.relation AND a.attnum > 0 AND NOT a.attisdropped
                         AND a.atttypid = 'integer'::regtype
     ORDER BY s.relation = 'operator.settings'::regclass, a.attnum
$$;
