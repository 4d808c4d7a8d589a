-- operator.rotate_sender_keys: replaces the key with which the DS proposes removals in groups; a server makes a new one
-- within moments. Groups carry the key that they began with: in old ones the DS goes on with the old key.
--
--   revoke: whether the old keys' secrets may be known to somebody: the DS proposes nothing in groups that carry one, and
--     starts no group with it.
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.rotate_sender_keys(revoke boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE ds.sender_keys IN SHARE ROW EXCLUSIVE MODE;
    UPDATE ds.sender_keys k
       SET replaced = true, sealed_seed = CASE WHEN revoke THEN NULL ELSE k.sealed_seed END;
END
$$;
