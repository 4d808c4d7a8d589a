-- Post-quantum ciphersuites (DS-3): X-Wing under the code point of an expired draft, and the first of
-- draft-ietf-mls-pq-ciphersuites under one that OpenMLS gave it meanwhile. Other libraries call other suites by these
-- numbers, so neither is allowed unless the operator says so.

ALTER TABLE ds.settings
    DROP CONSTRAINT settings_ciphersuites_check,
    ADD CONSTRAINT settings_ciphersuites_check
        CHECK (1 = ANY (ciphersuites) AND ciphersuites <@ '{1,3,77,79}' AND array_position(ciphersuites, NULL) IS NULL);
