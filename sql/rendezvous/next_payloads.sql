-- rendezvous.next_payloads: returns what the other side of a rendezvous left (AS-7), and changes nothing.
--
--   number: of the rendezvous
--   signer: Ed25519; one of the two sides
--   after: number of payloads that the signer has already
--
-- Returns received, with the payloads, up to a mebibyte of them but one at least; unknown: there is no such rendezvous, or
-- the signer is none of its sides.
-- Called by rendezvous.receive_payloads; by servers for a long-poll that was woken.
CREATE OR REPLACE FUNCTION rendezvous.next_payloads(
    number integer, signer bytea, after integer,
    OUT outcome rendezvous.receive_payloads_outcome, OUT payloads bytea[])
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT CASE WHEN m.owner_key = signer THEN m.from_guest ELSE m.from_owner END INTO payloads
      FROM rendezvous.meetings m
     WHERE m.number = next_payloads.number AND m.expires >= rendezvous.this_minute()
       AND signer IN (m.owner_key, m.guest_key);
    IF NOT FOUND THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    payloads := (SELECT coalesce(array_agg(p.payload ORDER BY p.place), '{}')
                   FROM (SELECT u.payload, u.place, sum(octet_length(u.payload)) OVER (ORDER BY u.place) AS bytes
                           FROM unnest(payloads) WITH ORDINALITY u (payload, place)
                          WHERE u.place > after) p
                  WHERE p.bytes <= 1048576 OR p.place = after + 1);
    outcome := 'received';
END
$$;
