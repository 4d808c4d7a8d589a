-- operator.application_server_keys: lists the keys by which push services know this server (RFC 8292), the newest last,
-- and whether the operator replaced it. Pushes are signed with each of them in turn, the newest first, until the push
-- service takes one: a subscription does not tell for which key it was made.
--
-- Columns of the result:
--
--   public_key: as push services know it
--   replaced: whether the operator replaced it
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.application_server_keys()
RETURNS TABLE (public_key bytea, replaced boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.replaced FROM qs.application_server_keys k ORDER BY k.number
$$;
