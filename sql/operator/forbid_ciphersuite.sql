-- operator.forbid_ciphersuite: forbids a ciphersuite for new groups, for members that are added, and for KeyPackages
-- that are published and fetched. Takes effect with the next request, on every server. Groups that have it go on, and
-- KeyPackages in stock stay there until they expire or are replaced.
--
--   ciphersuite: one of operator.ciphersuites() but 1, which every client has (RFC 9420 §17.1)
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.forbid_ciphersuite(ciphersuite integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF ciphersuite = 1 THEN
        RAISE EXCEPTION 'ciphersuite 1 cannot be forbidden'
            USING ERRCODE = 'check_violation', HINT = 'It is the one that every client has (RFC 9420 §17.1).';
    END IF;
    UPDATE operator.settings s SET ciphersuites = array_remove(s.ciphersuites, forbid_ciphersuite.ciphersuite);
END
$$;
