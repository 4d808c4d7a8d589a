-- Push subscriptions and what addresses say of them (QS-10): what the owner sealed is opened by
-- end-to-end tests; here it is noise.
SELECT make_queue(41, 'group', 's1 s2');
SELECT make_queue(42, 'group', 't1');
CREATE FUNCTION noise(bytes integer) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN decode(repeat('ab', bytes), 'hex');
CREATE FUNCTION subscribe(n integer, subscription bytea, owner text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT outcome FROM qs.subscribe_push(1::smallint, nonce(), queue(n), sha256(coalesce(owner, 'owner ' || n)::bytea),
                                          subscription);
$$;
CREATE FUNCTION policy(n integer, names text, pushes bytea[], owner text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT outcome FROM qs.set_push_policy(1::smallint, nonce(), queue(n), sha256(coalesce(owner, 'owner ' || n)::bytea),
        (SELECT coalesce(array_agg(address(name)), '{}') FROM unnest(string_to_array(names, ' ')) AS name), pushes);
$$;
CREATE FUNCTION policies() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(name || ' ' || coalesce(octet_length(sealed_push), 0), ', ' ORDER BY name)
      FROM qs.addresses JOIN unnest('{s1,s2,t1}'::text[]) name
        ON lookup = (SELECT n.lookup FROM postern.seal_addresses(ARRAY[address(name)], queue(41)) n);
$$;

-- Each by the owner only, for a token.
SELECT * FROM qs.subscribe_push(1::smallint, 'w1', queue(41), sha256('owner 41'), noise(1052));
SELECT * FROM qs.subscribe_push(1::smallint, 'w1', queue(41), sha256('owner 41'), NULL);
SELECT * FROM qs.set_push_policy(1::smallint, 'w1', queue(41), sha256('owner 41'), '{}', '{}');
SELECT subscribe(41, noise(1052), 'stranger'), subscribe(43, noise(1052)), policy(41, 's1', ARRAY[noise(61)], 'stranger');
SELECT count(*) FROM qs.push_subscriptions;

-- The owner's own addresses, all of them or none, each with its own.
SELECT policy(41, 's1 t1', ARRAY[noise(61), noise(61)]), policy(41, 's1 nobody', ARRAY[noise(61), noise(61)]), policies();
SELECT policy(41, 's1 s2', ARRAY[NULL, noise(61)]), policies();
SELECT policy(41, 's1', ARRAY[noise(61)]), policies();
SELECT policy(41, 's2', ARRAY[NULL::bytea]), policies();
SELECT policy(41, '', '{}'), policies();

-- An address whose policy does not open pushes nothing, and is delivered to all the same.
SELECT deliver('g', 's1 s2', '{1,1}', '{x}'), postern.take_pushes() IS NULL AS nothing;

-- A push service says that a subscription is over: a newer one stays.
SELECT * FROM qs.drop_push_subscription(queue(41), noise(1051) || '\x00');
SELECT * FROM qs.drop_push_subscription(queue(42), noise(1052));
SELECT * FROM qs.drop_push_subscription(queue(41), noise(1052));
SELECT * FROM qs.drop_push_subscription(queue(41), noise(1052));

-- One per queue: the last. None, when the owner says so or the queue is gone.
SELECT subscribe(41, noise(1052)), subscribe(41, noise(1051) || '\x00'), subscribe(42, noise(1052));
SELECT count(*), count(*) FILTER (WHERE subscription = noise(1052)) FROM qs.push_subscriptions;
SELECT subscribe(41, NULL), subscribe(41, NULL), count(*) FROM qs.push_subscriptions;
SELECT outcome FROM qs.delete_queue(1::smallint, nonce(), queue(42), sha256('owner 42'), ARRAY[address('t1')]);
SELECT count(*) FROM qs.push_subscriptions;

-- The tables keep their shape.
\set VERBOSITY sqlstate
SELECT subscribe(41, noise(1051));
SELECT policy(41, 's1', ARRAY[noise(60)]);
