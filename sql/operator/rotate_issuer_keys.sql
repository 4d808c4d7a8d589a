-- operator.rotate_issuer_keys: replaces the issuer keys of all types; a server makes new ones within moments. The one of
-- each type that is in use goes on issuing for the overlap, others no longer. The tokens of all stay good.
--
--   revoke: whether the old keys' secrets may be known to somebody: they neither issue nor redeem from now on, and all
--     tokens that clients hold are worth nothing. Clients fetch new ones.
--
-- Called by the operator, and by operator.begin_generation.
CREATE OR REPLACE FUNCTION operator.rotate_issuer_keys(revoke boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    LOCK TABLE aas.issuer_keys IN SHARE ROW EXCLUSIVE MODE;
    -- No more than two keys of a type issue at a time: one of many could be made for one user.
    UPDATE aas.issuer_keys k
       SET not_before = CASE WHEN n.goes_on THEN k.not_before ELSE least(k.not_before, today) END,
           not_after = CASE WHEN n.goes_on THEN least(k.not_after, today + s.overlap_days) ELSE least(k.not_after, today) END
      FROM aas.settings s,
           (SELECT i.issuer_key, i.not_before <= today
                   AND row_number() OVER (PARTITION BY i.token_type, i.not_before <= today
                                          ORDER BY i.not_before DESC, i.issuer_key DESC) = 1 AS goes_on
              FROM aas.issuer_keys i WHERE i.not_after > today) n
     WHERE k.issuer_key = n.issuer_key;
    IF revoke THEN
        -- Days before any that a clock shows: one that is ahead now and is put right later makes no key good again.
        UPDATE aas.issuer_keys k SET not_before = 'epoch', not_after = 'epoch', retires = 'epoch';
    END IF;
    PERFORM pg_notify('postern_issuer_keys', '');
END
$$;
