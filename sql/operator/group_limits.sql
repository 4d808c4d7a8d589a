-- operator.group_limits: lists every limit of groups, its value, and its meaning. Expiry is in operator.group_expiry.
--
-- Columns of the result:
--
--   name: as operator.set_group_limit takes it
--   value: the limit now
--   meaning: what it bounds, and in which unit
--
-- Called by the operator and by monitoring; by operator.set_group_limit.
CREATE OR REPLACE FUNCTION operator.group_limits()
RETURNS TABLE (name text, value integer, meaning text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname::text, (to_jsonb(s) ->> a.attname)::integer, col_description(a.attrelid, a.attnum)
      FROM ds.settings s
      JOIN pg_attribute a ON a.attrelid = 'ds.settings'::regclass AND a.attnum > 0 AND NOT a.attisdropped
                         AND a.atttypid = 'integer'::regtype
                         AND a.attname NOT IN ('inactive_days', 'abandoned_days')
     ORDER BY a.attnum
$$;
