-- aas.count_refusal: counts a token request of a signer that was refused after the server had worked on it (AAS-8).
--
--   signer_key: Ed25519 key, verified by the caller
--
-- Called by POST /aas/token-request, after aas.admit_signer.
CREATE OR REPLACE FUNCTION aas.count_refusal(signer_key bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    signer record;
BEGIN
    SELECT s.user_id, s.domain INTO signer FROM aas.find_signer(signer_key) s;
    IF num_nonnulls(signer.user_id, signer.domain) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO aas.takers (user_id, domain) VALUES (signer.user_id, signer.domain) ON CONFLICT DO NOTHING;
    INSERT INTO aas.refusals AS r (taker, day, number)
    SELECT t.taker, (now() AT TIME ZONE 'UTC')::date, 1
      FROM aas.takers t
     WHERE t.user_id = signer.user_id OR t.domain = signer.domain
    ON CONFLICT ON CONSTRAINT refusals_pkey DO UPDATE
       SET day = excluded.day,
           number = CASE r.day WHEN excluded.day THEN r.number + 1 ELSE 1 END;
END
$$;
