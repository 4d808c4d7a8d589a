-- operator.homeserver_keys: lists the keys of homeservers of other domains, with the day (UTC) on which each was first
-- known, the day on which it was distrusted (null: it is trusted), and its last day (null: no description named it).
--
-- Columns of the result (days are UTC):
--
--   domain: domain that the key is of
--   public_key: 32 bytes, Ed25519
--   pinned: day on which it was first known
--   distrusted: day on which the operator distrusted it; null: it is trusted
--   ends: last day of validity; null: no description named it
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.homeserver_keys()
RETURNS TABLE (domain text, public_key bytea, pinned date, distrusted date, ends date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.domain, k.public_key, k.pinned, k.distrusted, (to_timestamp(k.not_after) AT TIME ZONE 'UTC')::date
      FROM federation.homeserver_keys k
     ORDER BY k.domain, k.pinned
$$;
