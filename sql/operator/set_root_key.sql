-- operator.set_root_key: replaces the root of this domain, or takes it away. Clients that saw the one before accept no
-- credential without it until their users accept the change, so this is for a root that was lost or became known.
--
--   root_key: Ed25519, 32 bytes; null: this domain has no root
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_root_key(root_key bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE auth.key_settings s SET root_key = set_root_key.root_key;
EXCEPTION WHEN check_violation THEN
    RAISE EXCEPTION 'a root key has 32 bytes' USING HINT = '`postern root new` makes one.';
END
$$;
