-- federation.note_taken: forgets that addresses are gone which took a delivery since.
--
--   groups, addresses: digests of the addresses, and of their groups (32 bytes each)
--
-- Called by server processes that delivered.
CREATE OR REPLACE FUNCTION federation.note_taken(groups bytea[], addresses bytea[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM federation.gone g
     WHERE (g.group_digest, g.address_digest) IN (
           SELECT o.group_digest, o.address_digest
             FROM unnest(note_taken.groups, note_taken.addresses) AS t (group_digest, address_digest)
             JOIN federation.gone o ON o.group_digest = t.group_digest AND o.address_digest = t.address_digest
              FOR UPDATE OF o SKIP LOCKED)
$$;
