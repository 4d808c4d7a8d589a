-- qs.deposit: puts a payload into a contact queue (QS-2).
--
--   issuer_key, nonce: the token that pays
--   address: 32 bytes, published by the queue's owner
--   payload: opaque
--   urgency: 0 = very-low to 3 = high
--   bytes: of what the depositor sent, without the form in which the payload has it
--
-- Returns deposited, with pushes (as postern.take_pushes); token_spent; too_large, with max_deposit_bytes: the operator's
-- limit; undeliverable: the address is unknown, revoked, or not a contact queue's, or it got enough for today, or there is
-- no room for it in the queue.
-- Called by POST /qs/deposits.
CREATE OR REPLACE FUNCTION qs.deposit(
    issuer_key smallint, nonce bytea, address bytea, payload bytea, urgency smallint, bytes integer,
    OUT outcome qs.deposit_outcome, OUT pushes bytea[], OUT max_deposit_bytes integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('qs.deposit', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    -- Before the address is looked at: what is too large tells nothing of it.
    SELECT s.max_deposit_bytes INTO STRICT max_deposit_bytes FROM qs.settings s;
    IF bytes > max_deposit_bytes THEN
        outcome := 'too_large';
    ELSIF cardinality(postern.deliver(NULL, NULL, ARRAY[address], ARRAY[1::smallint], ARRAY[payload],
                                      ARRAY[urgency])) = 0 THEN
        outcome := 'deposited';
        pushes := postern.take_pushes();
    ELSE
        outcome := 'undeliverable';
    END IF;
END
$$;
