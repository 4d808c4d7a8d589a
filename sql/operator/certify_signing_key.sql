-- operator.certify_signing_key: gives a signing key of the AS the certificate that `postern root sign` made for it. If
-- there is no root yet, the one that signed it becomes the root of this domain: from then on the AS signs with
-- certified keys only, and clients that saw the root insist on it. Servers verify the signature, and pass over a
-- certificate that is not good.
--
--   certificate: of one of operator.signing_keys(), by the root
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.certify_signing_key(certificate bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    root CONSTANT bytea := substr(certificate, 3, 32);
    issuer CONSTANT bytea := substr(certificate, 35, 32);
BEGIN
    IF certificate IS NULL OR octet_length(certificate) < 100 THEN
        RAISE EXCEPTION 'this is no certificate' USING HINT = '`postern root sign` prints one.';
    END IF;
    IF NOT EXISTS (SELECT FROM auth.signing_keys k
                    WHERE k.service = 'as' AND k.public_key = issuer AND k.revoked IS NULL) THEN
        RAISE EXCEPTION 'the certificate is for no signing key of this AS'
            USING HINT = 'operator.signing_keys() lists all.';
    END IF;
    IF EXISTS (SELECT FROM auth.key_settings s WHERE s.root_key <> root) THEN
        RAISE EXCEPTION 'another key is the root of this domain'
            USING HINT = 'operator.root_key() shows it, operator.set_root_key() replaces it.';
    END IF;
    UPDATE auth.signing_keys k SET certificate = certify_signing_key.certificate WHERE k.public_key = issuer;
    UPDATE auth.key_settings s SET root_key = root WHERE s.root_key IS NULL;
END
$$;
