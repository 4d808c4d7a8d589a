-- qs.receive_deliveries: takes deliveries of another domain's DS, each once (QS-3, FED-4).
--
--   issuer_key, nonce: the token that pays
--   signer: Ed25519 key, verified by the caller
--   lane, instance: lane of the deliveries, and the instance of its numbering (16 bytes)
--   first: number of the first delivery in this instance, from 1
--   before: id of the delivery before it (16 bytes); null if first is 1
--   ids: of each delivery (16 bytes)
--   group_ids: the group of each delivery; null for one that is not to be delivered
--   deliveries: for each address the number of its delivery, from 1; in order
--   addresses: 32 bytes each
--   parts, payloads, urgencies: as in postern.deliver
--
-- Returns received, with sender: the signer's domain, repeated: how many of the deliveries were taken before, results:
-- of the addresses of the others, in order (as postern.deliver), and pushes (as postern.take_pushes); token_spent;
-- unknown_homeserver: the signer is no key of another homeserver that is trusted and valid; blocked: the operator does
-- not let this server deal with its domain; gap: these are not the deliveries that come next, with last and last_id of
-- the last one that was taken: 0 and null for another instance; too_large: they take more bytes in all queues together
-- than ds.settings.max_delivery_bytes.
-- Called by POST /qs/deliveries.
CREATE OR REPLACE FUNCTION qs.receive_deliveries(
    issuer_key smallint, nonce bytea, signer bytea, lane smallint, instance bytea, first bigint, before bytea, ids bytea[],
    group_ids bytea[], deliveries smallint[], addresses bytea[], parts smallint[], payloads bytea[], urgencies smallint[],
    OUT outcome qs.receive_deliveries_outcome, OUT sender text, OUT repeated integer, OUT results smallint[], OUT pushes bytea[],
    OUT last bigint, OUT last_id bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    number CONSTANT integer := cardinality(ids);
    known record;
    -- Whether the lane was never used before.
    is_new boolean;
    is_good boolean := true;
    -- Number of these deliveries that were taken before.
    overlap bigint;
    -- Id of the last one of them, or of the delivery before.
    last_here bytea;
    -- Number of their addresses.
    before_new integer;
BEGIN
    IF NOT aas.spend_token('qs.receive_deliveries', receive_deliveries.issuer_key, receive_deliveries.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    sender := federation.signing_domain(receive_deliveries.signer);
    IF sender IS NULL THEN
        outcome := 'unknown_homeserver';
        RETURN;
    ELSIF NOT federation.is_allowed(sender) THEN
        outcome := 'blocked';
        RETURN;
    END IF;
    -- Every transaction locks the row of the lane before any queue's: requests of one lane come one after the other.
    INSERT INTO federation.incoming_lanes (domain, lane, instance, last_number, last_used)
    VALUES (sender, receive_deliveries.lane, receive_deliveries.instance, 0, today)
    ON CONFLICT ON CONSTRAINT incoming_lanes_pkey DO NOTHING;
    is_new := FOUND;
    SELECT l.instance, l.past_instances, l.last_number, l.last_id INTO STRICT known
      FROM federation.incoming_lanes l
     WHERE l.domain = sender AND l.lane = receive_deliveries.lane
       FOR NO KEY UPDATE;
    IF known.instance <> receive_deliveries.instance THEN
        -- A late request of an instance that was replaced counts no more. Ids outlive a numbering: what the one before
        -- brought up to the last delivery is a repeat.
        is_good := receive_deliveries.instance <> ALL (known.past_instances);
        known.last_number := CASE WHEN is_good AND receive_deliveries.first = 1
                                  THEN coalesce(array_position(ids, known.last_id), 0) ELSE 0 END::bigint;
        IF known.last_number = 0 THEN
            known.last_id := NULL;
        END IF;
    END IF;
    -- The delivery that was taken last has to be among these, or the one before them: else a number was left out, or
    -- given twice.
    overlap := known.last_number - receive_deliveries.first + 1;
    IF overlap = 0 THEN
        last_here := before;
    ELSIF overlap BETWEEN 1 AND number THEN
        last_here := ids[overlap];
    ELSE
        is_good := false;
    END IF;
    IF NOT is_good OR known.last_id IS DISTINCT FROM last_here THEN
        outcome := 'gap';
        last := known.last_number;
        last_id := known.last_id;
    ELSIF overlap < number AND federation.is_too_large(parts, payloads) THEN
        outcome := 'too_large';
    END IF;
    IF outcome IS NOT NULL THEN
        -- A request that is refused leaves nothing.
        IF is_new THEN
            DELETE FROM federation.incoming_lanes l WHERE l.domain = sender AND l.lane = receive_deliveries.lane;
        END IF;
        PERFORM federation.heard(sender);
        RETURN;
    END IF;
    outcome := 'received';
    repeated := overlap::integer;
    results := '{}';
    IF repeated = number AND known.instance = receive_deliveries.instance THEN
        PERFORM federation.heard(sender);
        RETURN;
    END IF;
    UPDATE federation.incoming_lanes l
       SET last_number = receive_deliveries.first + number - 1, last_id = ids[number], last_used = today,
           instance = receive_deliveries.instance,
           past_instances = CASE WHEN l.instance = receive_deliveries.instance THEN l.past_instances
                                 ELSE (l.instance || l.past_instances)[1:8] END
     WHERE l.domain = sender AND l.lane = receive_deliveries.lane;
    SELECT count(*)::integer INTO before_new FROM unnest(receive_deliveries.deliveries) AS d (number) WHERE d.number <= repeated;
    IF before_new < cardinality(addresses) THEN
        results := postern.deliver_groups(
            sender, group_ids, receive_deliveries.deliveries[before_new + 1:], addresses[before_new + 1:],
            parts[before_new + 1:], payloads, urgencies);
        pushes := postern.take_pushes();
    END IF;
    -- Last: nobody who waits for a queue holds up those that settle what waits for the domain.
    PERFORM federation.heard(sender);
END
$$;
