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

-- As the worker calls it.
SELECT * FROM qs.keep_up();
SELECT * FROM qs.start_upkeep();
