-- Tools of `postern-bench --queues`: queues and addresses made in bulk, recipients of each sender, and what
-- others do with the same rows.
CREATE SCHEMA bench;

CREATE FUNCTION bench.queue(n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN substr(sha256(('queue ' || n)::bytea), 1, 16);
CREATE FUNCTION bench.address(n bigint) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN sha256(('address ' || n)::bytea);
CREATE FUNCTION bench.payload(bytes integer) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN decode(repeat('ab', bytes), 'hex');

-- Group queues `first` to `last` with an address each; the key they are encrypted to is the base point's.
CREATE FUNCTION bench.make_queues(first bigint, last bigint, owner_key bytea) RETURNS void LANGUAGE sql AS $$
    INSERT INTO qs.queues (queue_id, kind, owner_key, hpke_key, address_count, last_active)
    SELECT bench.queue(n), 'group', owner_key, '\x09' || decode(repeat('00', 31), 'hex'), 1, now()
      FROM generate_series(first, last) n;
    INSERT INTO qs.addresses (lookup, sealed_queue_id)
    SELECT s.lookup, s.sealed_queue_id
      FROM generate_series(first, last) n
     CROSS JOIN LATERAL postern.seal_addresses(ARRAY[bench.address(n)], bench.queue(n)) s;
$$;

-- Each sender's group: the same recipients for every message, and nobody else's.
CREATE TABLE bench.groups (
    sender integer, fan_out integer, addresses bytea[], parts smallint[], queues bytea[],
    PRIMARY KEY (sender, fan_out));
CREATE FUNCTION bench.make_groups(senders integer, fan_outs integer[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO bench.groups
    SELECT s, f, array_agg(bench.address(n)), array_agg(1::smallint), array_agg(bench.queue(n) ORDER BY bench.queue(n))
      FROM generate_series(0, senders - 1) s
     CROSS JOIN unnest(fan_outs) f
     CROSS JOIN LATERAL generate_series(s * (SELECT max(x) FROM unnest(fan_outs) x) + 1,
                                        s * (SELECT max(x) FROM unnest(fan_outs) x) + f) n
     GROUP BY s, f;
$$;

-- Ours. One group sends to all, whoever its sender: what is measured is the delivery.
CREATE FUNCTION bench.deliver(of_sender integer, of_fan_out integer, bytes integer) RETURNS integer
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT cardinality(postern.deliver('example.org', 'bench', g.addresses, g.parts,
                                               ARRAY[bench.payload(bytes)], '{2}'))
              FROM bench.groups g
             WHERE g.sender = of_sender AND g.fan_out = of_fan_out);
END
$$;

-- The same to some of `n` queues, others each time.
CREATE FUNCTION bench.deliver_anywhere(n bigint, fan_out integer, bytes integer) RETURNS integer
LANGUAGE plpgsql AS $$
BEGIN
    RETURN cardinality(postern.deliver('example.org', 'bench',
        (SELECT array_agg(bench.address(1 + floor(random() * n)::bigint)) FROM generate_series(1, fan_out)),
        array_fill(1::smallint, ARRAY[fan_out]), ARRAY[bench.payload(bytes)], '{2}'));
END
$$;

CREATE TABLE bench.queues (queue_id bytea PRIMARY KEY, next_seq bigint NOT NULL DEFAULT 1) WITH (fillfactor = 50);
CREATE TABLE bench.messages (LIKE qs.messages INCLUDING ALL);
CREATE SEQUENCE bench.seq CACHE 1000;

-- (a) The floor: the rows and nothing else.
CREATE FUNCTION bench.insert(of_sender integer, of_fan_out integer, bytes integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.messages (queue_id, seq, chain, chain_index, ciphertext)
    SELECT q, nextval('bench.seq'), 1, 1, bench.payload(bytes)
      FROM bench.groups g CROSS JOIN unnest(g.queues) q
     WHERE g.sender = of_sender AND g.fan_out = of_fan_out;
END
$$;

-- (b), (c) The ordinary way: for each recipient a number, a row, and a notification, or one for them all.
CREATE FUNCTION bench.ordinary(of_sender integer, of_fan_out integer, bytes integer, notify_each boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    queue bytea;
    number bigint;
BEGIN
    FOREACH queue IN ARRAY (SELECT g.queues FROM bench.groups g
                             WHERE g.sender = of_sender AND g.fan_out = of_fan_out) LOOP
        UPDATE bench.queues q SET next_seq = q.next_seq + 1 WHERE q.queue_id = queue
        RETURNING q.next_seq - 1 INTO number;
        INSERT INTO bench.messages (queue_id, seq, chain, chain_index, ciphertext)
        VALUES (queue, number, 1, 1, bench.payload(bytes));
        IF notify_each THEN
            PERFORM pg_notify('bench', encode(queue, 'hex'));
        END IF;
    END LOOP;
    IF NOT notify_each THEN
        PERFORM pg_notify('bench', of_sender::text);
    END IF;
END
$$;
