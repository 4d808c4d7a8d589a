-- operator.homeserver_keys: lists the keys of homeservers of other domains, with the day (UTC) on which each was first
-- known, and the day on which it was distrusted (null: it is trusted).
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.homeserver_keys()
RETURNS TABLE (domain text, public_key bytea, pinned date, distrusted date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.domain, k.public_key, k.pinned, k.distrusted
      FROM federation.homeserver_keys k
     ORDER BY k.domain, k.pinned
$$;
