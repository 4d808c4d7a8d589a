-- operator.allow_ciphersuite: allows a ciphersuite for new groups, for members that are added, and for KeyPackages that
-- are published and fetched. Takes effect with the next request, on every server.
--
--   ciphersuite: one of operator.ciphersuites()
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.allow_ciphersuite(ciphersuite integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM operator.ciphersuites() k
                    WHERE k.ciphersuite = allow_ciphersuite.ciphersuite) THEN
        RAISE EXCEPTION 'this server cannot serve ciphersuite %', coalesce(ciphersuite::text, 'null')
            USING ERRCODE = 'check_violation', HINT = 'operator.ciphersuites() lists those it can.';
    END IF;
    UPDATE operator.settings s
       SET ciphersuites = s.ciphersuites || allow_ciphersuite.ciphersuite
     WHERE allow_ciphersuite.ciphersuite <> ALL (s.ciphersuites);
END
$$;
