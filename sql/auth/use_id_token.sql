-- auth.use_id_token: remembers the ID token of a second proof, so that none is shown twice (AS-8, AS-9).
--
--   proof: what the server verified
--
-- Returns false for a token that was used before for the same operation; true for another, and for a recovery key, whose
-- proofs are used up by what they change.
-- Called by the functions that ask for a second proof, where they take effect.
CREATE OR REPLACE FUNCTION auth.use_id_token(proof auth.verified_proof) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (proof).id_token IS NULL THEN
        RETURN true;
    END IF;
    INSERT INTO auth.used_id_tokens (digest, hour) VALUES ((proof).id_token, (proof).id_token_hour)
    ON CONFLICT ON CONSTRAINT used_id_tokens_pkey DO NOTHING;
    RETURN FOUND;
END
$$;
