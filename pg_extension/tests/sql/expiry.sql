-- Rows that are too old are removed in batches (QS-8).
CREATE FUNCTION today() RETURNS date LANGUAGE sql STABLE RETURN (now() AT TIME ZONE 'UTC')::date;
TRUNCATE qs.queues, qs.messages;
-- Until the sweep is over; how many batches that took, in which queues and messages are left.
CREATE FUNCTION sweep(days integer, OUT batches integer, OUT queues bigint, OUT messages bigint) LANGUAGE plpgsql AS $$
BEGIN
    batches := 0;
    LOOP
        batches := batches + 1;
        EXIT WHEN qs.remove_expired(today() + days) <> 'more';
    END LOOP;
    queues := (SELECT count(*) FROM qs.queues);
    messages := (SELECT count(*) FROM qs.messages);
END
$$;
CREATE FUNCTION read_queue(n integer, after bigint, OUT outcome text, OUT seqs bigint[], OUT expired_up_to bigint) LANGUAGE sql AS $$
    SELECT outcome, seqs, expired_up_to
      FROM qs.dequeue(1::smallint, nonce(), queue(n), sha256(('owner ' || n)::bytea), after, 100, 1000000);
$$;
CREATE FUNCTION age(n integer, from_seq bigint, to_seq bigint, days integer) RETURNS void LANGUAGE sql AS $$
    UPDATE qs.messages SET enqueued = today() - days
     WHERE queue_id = queue(n) AND seq BETWEEN from_seq AND to_seq;
$$;

SELECT make_queue(31, 'group', 'e1'), make_queue(32, 'group', 'e2'), make_queue(33, 'contact', 'e3');
UPDATE qs.settings SET chain_messages = 2;
SELECT deliver('g', 'e1 e2', '{1,1}', '{hello}') FROM generate_series(1, 4);
SELECT deliver(NULL, 'e3', '{1}', '{deposit}', NULL);
SELECT * FROM messages(31);

-- After 30 days a message is still there, after 31 it is not.
SELECT * FROM sweep(30);
SELECT age(31, 1, 2, 31);
SELECT * FROM read_queue(31, 0);
SELECT qs.remove_expired(today());
SELECT * FROM read_queue(31, 0);
-- Told until it is acknowledged; an owner who has them is told nothing.
SELECT * FROM read_queue(31, 1);
SELECT * FROM read_queue(31, 2);
SELECT * FROM read_queue(31, 0);
SELECT next_seq, acked_seq, expired_seq, last_chain FROM qs.queues WHERE queue_id = queue(31);

-- The day is over: nothing is looked at before the next one.
SELECT age(32, 1, 3, 31);
SELECT qs.remove_expired(today());
-- A chain goes as a whole: what is left could not be opened without its first message.
SELECT * FROM messages(32);
SELECT * FROM sweep(-1);
SELECT * FROM sweep(0);
SELECT * FROM messages(32);
SELECT * FROM read_queue(32, 0);
-- When nothing is left of a chain in use, the next message starts another.
SELECT chain FROM qs.messages WHERE queue_id = queue(33);
SELECT age(33, 1, 1, 31);
SELECT * FROM sweep(-1);
SELECT * FROM sweep(0);
UPDATE qs.settings SET chain_messages = 1000;
SELECT deliver(NULL, 'e3', '{1}', '{next}', NULL);
SELECT * FROM messages(33);
SELECT * FROM read_queue(33, 0);

-- A queue whose owner does not come goes with all it holds; its address leads nowhere.
UPDATE qs.queues SET last_active = today() - 90 WHERE queue_id = queue(33);
SELECT * FROM sweep(-1);
SELECT * FROM sweep(0);
UPDATE qs.queues SET last_active = today() - 91 WHERE queue_id = queue(33);
SELECT * FROM sweep(-1);
SELECT * FROM sweep(0);
SELECT * FROM read_queue(33, 0);
SELECT deliver(NULL, 'e3', '{1}', '{nobody}', NULL);
SELECT today() - day AS days_ago, inactive_queues, their_messages, expired_messages, purged_messages
  FROM qs.removed ORDER BY day;

-- An expired message makes room.
UPDATE qs.settings SET group_queue_depth = 2;
SELECT deliver('g', 'e2', '{1}', '{full}');
SELECT age(32, 3, 5, 31);
SELECT * FROM sweep(-1);
SELECT * FROM sweep(0);
SELECT deliver('g', 'e2', '{1}', '{fits}');
UPDATE qs.settings SET group_queue_depth = 10000;

-- Many queues, in batches, and those in between are left alone.
SELECT count(make_queue(n, 'group', 'm' || n)) FROM generate_series(1000, 3500) n;
SELECT deliver('g', string_agg(a, ' '), array_agg(part), '{x,x}')
  FROM (SELECT 'm' || n AS a, part::smallint FROM generate_series(1000, 3500) n, generate_series(1, 2) part) a;
UPDATE qs.messages m SET enqueued = today() - 40 FROM generate_series(1000, 3500) n
 WHERE n % 5 <> 0 AND m.queue_id = queue(n);
UPDATE qs.queues q SET last_active = today() - 100 FROM generate_series(1000, 3500) n
 WHERE n % 10 = 1 AND q.queue_id = queue(n);
SELECT * FROM sweep(-1);
SELECT * FROM sweep(0);
SELECT count(DISTINCT m.queue_id), count(*) FROM qs.messages m JOIN generate_series(1000, 3500) n ON m.queue_id = queue(n);
SELECT count(*) FROM qs.queues q JOIN generate_series(1000, 3500) n ON q.queue_id = queue(n);
SELECT count(*), min(expired_seq), max(expired_seq) FROM qs.queues WHERE expired_seq > 0 AND queue_id <> ALL (ARRAY[queue(31), queue(32)]);

-- Addresses that neither their owner nor a delivery used for five seasons go, whatever became of their queue.
CREATE FUNCTION made(name text) RETURNS bytea LANGUAGE sql STABLE
    RETURN (SELECT n.lookup FROM postern.seal_addresses(ARRAY[address(name)], queue(1)) n);
CREATE FUNCTION age_addresses(names text, seasons integer) RETURNS void LANGUAGE sql AS $$
    UPDATE qs.addresses SET season = qs.season(today()) - seasons
      FROM unnest(string_to_array(names, ' ')) name WHERE lookup = made(name);
$$;
CREATE FUNCTION ages(names text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(name || ' ' || coalesce((SELECT qs.season(today()) - season FROM qs.addresses
                                                WHERE lookup = made(name))::text, 'gone'), ', ' ORDER BY name)
      FROM unnest(string_to_array(names, ' ')) name;
$$;
SELECT make_queue(91, 'group', 'j1 j2 j3 j4 j5'), make_queue(92, 'contact', 'k1');
SELECT deliver('g', 'j1 j2', '{1,1}', '{x}');
SELECT age_addresses('j1 j2 j3 j4 k1', 6), age_addresses('j5', 5);
-- A message that is not delivered renews nothing.
SELECT deliver('g', 'j1', '{1}', '{x}'), deliver('h', 'j2', '{1}', '{x}'), deliver(NULL, 'k1', '{1}', '{x}', NULL);
SELECT outcome FROM qs.add_addresses(1::smallint, nonce(), queue(91), sha256('owner 91'), ARRAY[address('j3')]);
SELECT ages('j1 j2 j3 j4 j5 k1'), (SELECT address_count FROM qs.queues WHERE queue_id = queue(91));
-- None goes before its queue.
UPDATE qs.settings SET queue_days = 500;
SELECT qs.remove_old_addresses(today()), ages('j1 j2 j3 j4 j5 k1');
UPDATE qs.settings SET queue_days = 90;
SELECT qs.remove_old_addresses(today()), ages('j1 j2 j3 j4 j5 k1');
SELECT deliver('g', 'j4', '{1}', '{nobody}');

-- As the worker calls it. Figures of days that are long over go, too.
INSERT INTO qs.removed (day) VALUES (today() - 730), (today() - 731);
SELECT * FROM qs.keep_up();
SELECT * FROM qs.start_upkeep();
SELECT today() - day AS days_ago FROM qs.removed WHERE day < today() - 100;
