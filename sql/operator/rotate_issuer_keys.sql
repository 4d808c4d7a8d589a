-- operator.rotate_issuer_keys: replaces the issuer keys of all types; a server makes new ones within moments. The old
-- ones go on issuing for the overlap, and their tokens stay good.
--
--   revoke: whether the old keys' secrets may be known to somebody: they neither issue nor redeem from now on, and all
--     tokens that clients hold are worth nothing. Clients fetch new ones.
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.rotate_issuer_keys(revoke boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    LOCK TABLE aas.issuer_keys IN SHARE ROW EXCLUSIVE MODE;
    UPDATE aas.issuer_keys k
       SET not_before = CASE WHEN revoke THEN least(k.not_before, today) ELSE k.not_before END,
           not_after = CASE WHEN revoke THEN least(k.not_after, today)
                            ELSE greatest(k.not_before, least(k.not_after, today + s.overlap_days)) END,
           retires = CASE WHEN revoke THEN least(k.retires, today) ELSE k.retires END
      FROM aas.settings s;
    PERFORM pg_notify('postern_issuer_keys', '');
END
$$;
