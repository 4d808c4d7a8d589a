-- operator.issuer_keys: lists the issuer's keys: the days (UTC) from which and until which each issues and redeems,
-- about how many of its tokens are spent, and the bytes on disk that these take (AAS-4).
--
-- Columns of the result (days are UTC):
--
--   issuer_key: number of the key
--   token_type: type of its tokens (RFC 9578)
--   not_before: first day on which it issues
--   not_after: day from which on it issues no more
--   retires: day from which on its tokens are worth nothing
--   spent_tokens: about how many of its tokens are spent
--   spent_bytes: bytes on disk that these take
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.issuer_keys()
RETURNS TABLE (issuer_key smallint, token_type integer, not_before date, not_after date, retires date,
               spent_tokens bigint, spent_bytes bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.issuer_key, k.token_type, k.not_before, k.not_after, k.retires,
           pg_stat_get_live_tuples(p.oid), pg_total_relation_size(p.oid)
      FROM aas.issuer_keys k
      LEFT JOIN pg_class p ON p.oid = to_regclass('aas.spent_' || k.issuer_key)
     ORDER BY k.token_type, k.not_before
$$;
