-- operator.ciphersuites: lists the ciphersuites that the server can serve (RFC 9420 §17.1), and whether each is allowed
-- for new groups, for members that are added, and for KeyPackages. 77 and 79, X-Wing (ML-KEM-768 with X25519), have
-- numbers of drafts, by which other libraries may mean other suites.
--
-- Columns of the result:
--
--   ciphersuite: its number
--   name: its name in the standard
--   allowed: whether it is allowed
--
-- Called by the operator and by monitoring; by operator.allow_ciphersuite.
CREATE OR REPLACE FUNCTION operator.ciphersuites()
RETURNS TABLE (ciphersuite integer, name text, allowed boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.ciphersuite, k.name, k.ciphersuite = ANY (s.ciphersuites)
      FROM (VALUES (1, 'MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519'),
                   (3, 'MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519'),
                   (77, 'MLS_256_XWING_CHACHA20POLY1305_SHA256_Ed25519'),
                   (79, 'MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519')) k (ciphersuite, name),
           operator.settings s
     ORDER BY k.ciphersuite
$$;
