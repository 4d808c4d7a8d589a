-- rendezvous.receive_payloads: returns what the other side of a rendezvous left (AS-7), and counts the request.
--
--   number: of the rendezvous
--   signer: Ed25519; one of the two sides
--   after: number of payloads that the signer has already
--   signature: digest of the request's signature, verified by the caller
--
-- Returns received, with the payloads; signature_used; unknown: there is no such rendezvous, or the signer is none of its
-- sides; closed: too many requests were made.
-- Called by POST /rendezvous/{number}/receive.
CREATE OR REPLACE FUNCTION rendezvous.receive_payloads(
    number integer, signer bytea, after integer, signature bytea,
    OUT outcome rendezvous.receive_payloads_outcome, OUT payloads bytea[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF aas.is_signature_used(signature) THEN
        outcome := 'signature_used';
        RETURN;
    END IF;
    SELECT n.outcome, n.payloads INTO outcome, payloads
      FROM rendezvous.next_payloads(number, signer, after) n;
    IF outcome <> 'received' THEN
        RETURN;
    END IF;
    UPDATE rendezvous.meetings m SET requests = m.requests + 1
      FROM rendezvous.settings s
     WHERE m.number = receive_payloads.number AND m.requests < s.max_requests;
    IF NOT FOUND THEN
        outcome := 'closed';
        payloads := NULL;
    ELSIF NOT aas.use_signature(signature) THEN
        -- The same request, at the same time: it was counted twice.
        outcome := 'signature_used';
        payloads := NULL;
    END IF;
END
$$;
