-- federation.signing_domain: finds the domain that a homeserver's key signs for at this time: the key is pinned and
-- trusted, and valid. Null: none. Whether this server deals with the domain is another question
-- (federation.is_allowed).
--
--   public_key: Ed25519 key, verified by the caller
--
-- Called by aas.find_signer, federation.find_sender, federation.introduce_server and qs.receive_deliveries, and by
-- POST /homeservers after a look.
CREATE OR REPLACE FUNCTION federation.signing_domain(public_key bytea) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.domain::text
      FROM federation.homeserver_keys k
     WHERE k.public_key = signing_domain.public_key AND k.distrusted IS NULL
       -- Clocks differ, by up to five minutes.
       AND coalesce(k.not_before <= extract(epoch FROM now()) + 300, true)
       AND coalesce(k.not_after >= extract(epoch FROM now()) - 300, true)
$$;
