-- federation.forget_gone: forgets addresses of a group that are gone, once their members' removal is proposed, or no member
-- has them any more.
--
--   group_digest, address_digests: 32 bytes each
--
-- Called by ds.propose_removal and ds.forget_gone.
CREATE OR REPLACE FUNCTION federation.forget_gone(group_digest bytea, address_digests bytea[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM federation.gone g
     WHERE g.group_digest = forget_gone.group_digest AND g.address_digest = ANY (forget_gone.address_digests)
$$;
