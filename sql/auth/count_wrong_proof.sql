-- auth.count_wrong_proof: counts a second proof that did not verify (AS-8). The count locks nobody out: a proof is
-- verified before anything is counted, and one that verifies is taken whatever the count is.
--
--   name: the part before @, whether anybody has it or not: no account is looked for, so neither the time nor the work tells
--     a stranger whether there is one
--
-- Called by every endpoint that asks for a second proof.
CREATE OR REPLACE FUNCTION auth.count_wrong_proof(name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO auth.wrong_proofs AS w (name_digest, hour, proofs)
    VALUES (sha256(convert_to(count_wrong_proof.name, 'UTF8')), floor(extract(epoch FROM now()) / 3600)::integer, 1)
    ON CONFLICT ON CONSTRAINT wrong_proofs_pkey DO UPDATE
       SET hour = excluded.hour, proofs = CASE w.hour WHEN excluded.hour THEN w.proofs + 1 ELSE 1 END
$$;
