-- operator.federation_limits: lists every limit of federation, its value, and its meaning.
--
-- Columns of the result:
--
--   name: as operator.set_federation_limit takes it
--   value: the limit now
--   meaning: what it bounds, and in which unit
--
-- Called by the operator and by monitoring; by operator.set_federation_limit.
CREATE OR REPLACE FUNCTION operator.federation_limits()
RETURNS TABLE (name text, value integer, meaning text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.attname::text, (to_jsonb(s) ->> a.attname)::integer, col_description(a.attrelid, a.attnum)
      FROM federation.settings s
      JOIN pg_attribute a ON a.attrelid = 'federation.settings'::regclass AND a.attnum > 0 AND NOT a.attisdropped
                         AND a.atttypid = 'integer'::regtype
     ORDER BY a.attnum
$$;
