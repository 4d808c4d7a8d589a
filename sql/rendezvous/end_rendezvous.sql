-- rendezvous.end_rendezvous: ends a rendezvous, and leaves nothing of it (AS-7, PRIV-3).
--
--   number: of the rendezvous
--   signer: Ed25519; one of the two sides
--   signature: digest of the request's signature, verified by the caller
--   wake: text by which servers know the rendezvous in notifications
--
-- Returns ended; signature_used; unknown: there is no such rendezvous, or the signer is none of its sides.
-- Called by DELETE /rendezvous/{number}.
CREATE OR REPLACE FUNCTION rendezvous.end_rendezvous(
    number integer, signer bytea, signature bytea, wake text, OUT outcome rendezvous.end_rendezvous_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF aas.is_signature_used(signature) THEN
        outcome := 'signature_used';
        RETURN;
    END IF;
    DELETE FROM rendezvous.meetings m
     WHERE m.number = end_rendezvous.number AND signer IN (m.owner_key, m.guest_key);
    IF NOT FOUND THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    PERFORM aas.use_signature(signature), pg_notify('postern_rendezvous', wake);
    outcome := 'ended';
END
$$;
