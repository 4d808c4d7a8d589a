-- rendezvous.leave_payload: leaves a payload for the other side of a rendezvous (AS-7).
--
--   number: of the rendezvous
--   signer: Ed25519; one of the two sides
--   place: number of payloads that the signer left before
--   payload: opaque
--   signature: digest of the request's signature, verified by the caller
--   wake: text by which servers know the rendezvous in notifications
--
-- Returns left, also to the same again; signature_used; unknown: there is no such rendezvous, or the signer is none of its
-- sides; too_large, with max_bytes, the limit of a payload; closed: there is another payload in that place, or none in the
-- place before, or as many payloads or requests as a rendezvous may have.
-- Called by POST /rendezvous/{number}/payloads.
CREATE OR REPLACE FUNCTION rendezvous.leave_payload(
    number integer, signer bytea, place integer, payload bytea, signature bytea, wake text,
    OUT outcome rendezvous.leave_payload_outcome, OUT max_bytes integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    settings record;
    meeting record;
    present integer;
BEGIN
    IF aas.is_signature_used(signature) THEN
        outcome := 'signature_used';
        RETURN;
    END IF;
    SELECT s.* INTO settings FROM rendezvous.settings s;
    max_bytes := settings.max_payload_bytes;
    SELECT m.owner_key = signer AS is_owner, m.requests,
           CASE WHEN m.owner_key = signer THEN m.from_owner ELSE m.from_guest END AS payloads
      INTO meeting
      FROM rendezvous.meetings m
     WHERE m.number = leave_payload.number AND m.expires >= rendezvous.this_minute()
       AND signer IN (m.owner_key, m.guest_key)
       FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    present := cardinality(meeting.payloads);
    IF place >= present AND octet_length(payload) > max_bytes THEN
        outcome := 'too_large';
    ELSIF meeting.requests >= settings.max_requests OR place > present
          OR place = present AND place >= settings.max_payloads
          OR place < present AND meeting.payloads[place + 1] <> payload THEN
        outcome := 'closed';
    ELSIF NOT aas.use_signature(signature) THEN
        outcome := 'signature_used';
    ELSE
        UPDATE rendezvous.meetings m
           SET requests = m.requests + 1,
               from_owner = CASE WHEN place = present AND meeting.is_owner THEN m.from_owner || payload
                                 ELSE m.from_owner END,
               from_guest = CASE WHEN place = present AND NOT meeting.is_owner THEN m.from_guest || payload
                                 ELSE m.from_guest END
         WHERE m.number = leave_payload.number;
        PERFORM pg_notify('postern_rendezvous', wake);
        outcome := 'left';
    END IF;
END
$$;
