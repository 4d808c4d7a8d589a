-- rendezvous.create_rendezvous: makes a rendezvous (AS-7).
--
--   issuer_key, nonce: the token that pays
--   owner_key: Ed25519, of the signer
--   numbers: random numbers; the first that is free is taken
--
-- Returns created, with number, minutes and max_payload_bytes; token_spent; full: there are as many as the operator
-- allows at a time, or none of the numbers is free.
-- Called by POST /rendezvous.
CREATE OR REPLACE FUNCTION rendezvous.create_rendezvous(
    issuer_key smallint, nonce bytea, owner_key bytea, numbers integer[],
    OUT outcome rendezvous.create_rendezvous_outcome, OUT number integer, OUT minutes integer,
    OUT max_payload_bytes integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    room integer;
BEGIN
    IF NOT aas.spend_token('rendezvous.create_rendezvous', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    -- One at a time, so that the count is right.
    SELECT s.minutes, s.max_payload_bytes, s.max_rendezvous INTO minutes, max_payload_bytes, room
      FROM rendezvous.settings s FOR UPDATE;
    -- Rendezvous that are over go within a minute, and take no room until then.
    DELETE FROM rendezvous.meetings m
     WHERE m.number = ANY (numbers) AND m.expires < rendezvous.this_minute();
    IF (SELECT count(*) FROM rendezvous.meetings m WHERE m.expires >= rendezvous.this_minute()) < room THEN
        SELECT n.number INTO number
          FROM unnest(numbers) WITH ORDINALITY n (number, place)
         WHERE NOT EXISTS (SELECT FROM rendezvous.meetings m WHERE m.number = n.number)
         ORDER BY n.place LIMIT 1;
    END IF;
    IF number IS NULL THEN
        outcome := 'full';
        RETURN;
    END IF;
    INSERT INTO rendezvous.meetings (number, expires, owner_key)
    VALUES (create_rendezvous.number, rendezvous.this_minute() + minutes, create_rendezvous.owner_key);
    outcome := 'created';
END
$$;
