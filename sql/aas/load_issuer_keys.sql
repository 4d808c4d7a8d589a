-- aas.load_issuer_keys: lists the issuer's keys that are not retired, the newest last.
--
-- Times are seconds since 1970: not_before (RFC 9578 §4), not_after (the key issues no more), retires (its tokens are
-- worth nothing).
-- Called by each server process at its start and when keys may have changed.
CREATE OR REPLACE FUNCTION aas.load_issuer_keys()
RETURNS TABLE (issuer_key smallint, token_type integer, public_key bytea, sealed_seed bytea,
               not_before bigint, not_after bigint, retires bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.issuer_key, k.token_type, k.public_key, k.sealed_seed,
           extract(epoch FROM k.not_before)::bigint,
           extract(epoch FROM k.not_after)::bigint,
           extract(epoch FROM k.retires)::bigint
      FROM aas.issuer_keys k
     WHERE k.retires > (now() AT TIME ZONE 'UTC')::date
     ORDER BY k.not_before, k.issuer_key
$$;
