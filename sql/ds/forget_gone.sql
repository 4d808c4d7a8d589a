-- ds.forget_gone: forgets addresses at other domains that are gone and that no member of the group has any more.
--
--   group_digest, gone_elsewhere: digests of the group id and of the addresses (32 bytes each)
--
-- Called after POST /ds/groups/{group_id}/messages found them in its answer.
CREATE OR REPLACE FUNCTION ds.forget_gone(group_digest bytea, gone_elsewhere bytea[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT federation.forget_gone(forget_gone.group_digest, forget_gone.gone_elsewhere)
$$;
