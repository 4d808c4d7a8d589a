-- federation.gone_addresses: lists the addresses of a group at other domains that are gone (DS-10): their homeserver
-- said so for gone_after_days.
--
--   group_digest: digest of the group id, 32 bytes
--
-- Returns their digests, 32 bytes each.
-- Called by ds.submit_message.
CREATE OR REPLACE FUNCTION federation.gone_addresses(group_digest bytea) RETURNS bytea[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(g.address_digest), '{}')
      FROM federation.gone g, federation.settings s
     WHERE g.group_digest = gone_addresses.group_digest AND g.last_day - g.day >= s.gone_after_days
$$;
