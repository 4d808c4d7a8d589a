-- The room in a queue, and what its owner is told of messages that were not put in (QS-11). A marker has 65 bytes when
-- it names an address, and 23 when it names none.
SELECT make_queue(51, 'group', 'r1 r2 r3');
CREATE FUNCTION bytes(n integer) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(seq || ':' || octet_length(ciphertext), ' ' ORDER BY seq) FROM qs.messages WHERE queue_id = queue(n);
$$;
CREATE FUNCTION read_up_to(n integer, after bigint) RETURNS text LANGUAGE sql AS $$
    SELECT outcome FROM qs.dequeue(1::smallint, nonce(), queue(n), sha256(('owner ' || n)::bytea), after, 100, 1000000);
$$;
CREATE FUNCTION state(n integer, OUT waiting bigint, OUT waiting_bytes bigint, OUT counted bigint, OUT last_marker bigint, OUT shares boolean)
LANGUAGE sql AS $$
    SELECT q.next_seq - 1 - greatest(q.acked_seq, q.expired_seq), q.waiting_bytes,
           (SELECT coalesce(sum(octet_length(m.ciphertext)), 0) FROM qs.messages m WHERE m.queue_id = q.queue_id),
           q.last_marker, q.shares <> ''
      FROM qs.queues q WHERE q.queue_id = queue(n);
$$;

-- A queue that is nearly empty counts nobody.
SELECT deliver('g', 'r1', '{1}', '{x}');
SELECT * FROM state(51);
SELECT read_up_to(51, 1);
SELECT * FROM state(51);

-- Full: what does not fit is told in its place, once.
UPDATE qs.settings SET group_queue_depth = 3;
SELECT n, deliver('g', 'r1', '{1}', ARRAY[repeat('x', n)]) FROM generate_series(1, 5) n;
SELECT bytes(51);
SELECT * FROM state(51);
-- Another address of the queue has a marker of its own.
SELECT deliver('h', 'r2', '{1}', '{x}'), deliver('h', 'r2', '{1}', '{x}');
SELECT bytes(51);
-- Messages that come later come after the marker, and a loss after that is another.
UPDATE qs.settings SET group_queue_depth = 4;
SELECT deliver('g', 'r1', '{1}', '{fits}'), deliver('g', 'r1', '{1}', '{full}'), deliver('g', 'r1', '{1}', '{full}');
SELECT bytes(51);
-- So is one after the owner acknowledged the marker.
SELECT read_up_to(51, 3);
UPDATE qs.settings SET group_queue_depth = 1;
SELECT deliver('g', 'r1', '{1}', '{full}');
SELECT read_up_to(51, 7);
SELECT deliver('g', 'r1', '{1}', '{fits}'), deliver('g', 'r1', '{1}', '{full}');
SELECT bytes(51);
-- A marker that is rolled back was not told.
SELECT read_up_to(51, 10);
SELECT deliver('g', 'r1', '{1}', '{fits}');
BEGIN;
SELECT deliver('g', 'r1', '{1}', '{full}');
ROLLBACK;
SELECT bytes(51);
SELECT deliver('g', 'r1', '{1}', '{full}');
SELECT bytes(51);
-- An emptied queue counts nothing.
SELECT read_up_to(51, 12);
UPDATE qs.settings SET group_queue_depth = 10000;
SELECT deliver('g', 'r1', '{1}', '{x}');
SELECT * FROM state(51);
SELECT read_up_to(51, 13);

-- Bytes: of what is sealed. Reading and expiry make room.
UPDATE qs.settings SET group_queue_kib = 1, address_share_percent = 100, handshake_reserve_percent = 0;
SELECT deliver('g', 'r1', '{1}', ARRAY[repeat('x', 500)]), deliver('h', 'r2', '{1}', ARRAY[repeat('x', 492)]);
SELECT * FROM state(51);
SELECT deliver('g', 'r1', '{1}', '{x}');
SELECT * FROM state(51);
SELECT read_up_to(51, 14);
SELECT * FROM state(51);
SELECT deliver('g', 'r1', '{1}', ARRAY[repeat('x', 400)]), deliver('g', 'r1', '{1}', ARRAY[repeat('x', 400)]);
UPDATE qs.messages SET enqueued = enqueued - 40 WHERE queue_id = queue(51);
UPDATE qs.sweep SET day = 'epoch', position = NULL;
SELECT qs.remove_expired((now() AT TIME ZONE 'UTC')::date);
SELECT * FROM state(51);
SELECT deliver('g', 'r1', '{1}', ARRAY[repeat('x', 400)]);
SELECT * FROM state(51);
SELECT read_up_to(51, (SELECT next_seq - 1 FROM qs.queues WHERE queue_id = queue(51)));
SELECT * FROM state(51);
-- A message that is larger than a queue is told, too.
SELECT deliver('g', 'r1', '{1}', ARRAY[repeat('x', 2000)]);
SELECT * FROM state(51);
UPDATE qs.settings SET group_queue_kib = 102400, address_share_percent = 75, handshake_reserve_percent = 10;

-- Commits, proposals and Welcomes have a reserve: a CBOR map with an MLSMessage in public framing, or a Welcome.
SELECT make_queue(52, 'group', 'zs1 zs2');
UPDATE qs.settings SET group_queue_depth = 2, handshake_reserve_percent = 50, address_share_percent = 100;
SELECT deliver('g', 'zs1 zs1', '{1,2}', '{x,x}'), deliver('g', 'zs1', '{1}', '{\\xa1676d657373616765450001000207}');
SELECT deliver('g', 'zs1', '{1}', '{\\xa1676d657373616765450001000107}');
SELECT bytes(52);
SELECT deliver('g', 'zs1', '{1}', '{\\xa1676d657373616765450001000107}');
UPDATE qs.settings SET handshake_reserve_percent = 100;
SELECT deliver('h', 'zs2', '{1}', '{\\xa16777656c636f6d6541ff}'), deliver('h', 'zs2', '{1}', '{\\xa16777656c636f6d6541ff}');
SELECT bytes(52);
UPDATE qs.settings SET group_queue_depth = 10000, handshake_reserve_percent = 10, address_share_percent = 75;

-- An address has its share, whatever comes by it; the rest is for the others.
SELECT make_queue(53, 'group', 't1 t2 t3');
UPDATE qs.settings SET group_queue_depth = 20;
SELECT count(*) FILTER (WHERE fate = 'all delivered') FROM (SELECT deliver('g', 't1', '{1}', '{x}') AS fate FROM generate_series(1, 40)) d;
SELECT count(*) FILTER (WHERE fate = 'all delivered') FROM (SELECT deliver('h', 't2', '{1}', '{x}') AS fate FROM generate_series(1, 3)) d;
-- Its commits, too, have only a share of the reserve.
SELECT count(*) FILTER (WHERE fate = 'all delivered')
  FROM (SELECT deliver('g', 't1', '{1}', '{\\xa1676d657373616765450001000107}') AS fate FROM generate_series(1, 40)) d;
SELECT count(*) FILTER (WHERE fate = 'all delivered') FROM (SELECT deliver('i', 't3', '{1}', '{x}') AS fate FROM generate_series(1, 40)) d;
SELECT count(*) FILTER (WHERE fate = 'all delivered')
  FROM (SELECT deliver('i', 't3', '{1}', '{\\xa1676d657373616765450001000107}') AS fate FROM generate_series(1, 40)) d;
-- Large messages count by their bytes.
UPDATE qs.settings SET group_queue_depth = 10000, group_queue_kib = 10;
SELECT make_queue(54, 'group', 'u1 u2');
SELECT count(*) FILTER (WHERE fate = 'all delivered') FROM (SELECT deliver('g', 'u1', '{1}', ARRAY[repeat('x', 1008)]) AS fate FROM generate_series(1, 10)) d;
SELECT deliver('h', 'u2', '{1}', ARRAY[repeat('x', 1008)]);
-- Reading makes room for both.
SELECT read_up_to(54, 6);
SELECT deliver('g', 'u1', '{1}', ARRAY[repeat('x', 1008)]);
UPDATE qs.settings SET group_queue_kib = 102400;

-- Many addresses lose something: so many markers name one, the last names none. Then nothing more is written.
SELECT make_queue(55, 'group', (SELECT string_agg('v' || n, ' ') FROM generate_series(1, 100) n));
UPDATE qs.settings SET group_queue_depth = 1;
SELECT deliver('g', 'v1', '{1}', '{x}');
SELECT count(deliver('g' || n, 'v' || n, '{1}', '{x}')) FROM generate_series(1, 100) n;
SELECT octet_length(ciphertext), count(*), max(seq) FROM qs.messages WHERE queue_id = queue(55) GROUP BY 1 ORDER BY 1;
SELECT next_seq AS next_seq_before FROM qs.queues WHERE queue_id = queue(55) \gset
SELECT count(deliver('g' || n, 'v' || n, '{1}', '{x}')) FROM generate_series(1, 100) n;
SELECT next_seq - :next_seq_before AS more FROM qs.queues WHERE queue_id = queue(55);
-- Once they are read, it begins anew.
SELECT read_up_to(55, :next_seq_before - 1);
SELECT deliver('g1', 'v1 v2', '{1,1}', '{x}'), deliver('g', 'v1 v1', '{1,1}', '{x}');
SELECT bytes(55);
UPDATE qs.settings SET group_queue_depth = 10000;

-- Shares, as they are kept, show no address, and open for their own queue only.
SELECT count(*) FROM qs.queues q, qs.addresses a WHERE position(substr(a.lookup, 1, 8) IN q.shares) > 0;
SELECT count(DISTINCT octet_length(shares)) <= 5 AS few_sizes, count(*) > 0 AS some FROM qs.queues WHERE shares <> '';
SELECT make_queue(56, 'group', 'w1');
UPDATE qs.settings SET group_queue_depth = 2;
UPDATE qs.queues SET shares = (SELECT shares FROM qs.queues WHERE queue_id = queue(55)) WHERE queue_id = queue(56);
SELECT deliver('g', 'w1 w1 w1', '{1,2,3}', '{x,x,x}');
SELECT bytes(56);
UPDATE qs.settings SET group_queue_depth = 10000;

-- A contact queue: each address takes so many deposits while nobody reads them, and so many in all. One address counts
-- apart from another; reading makes room, and so does another address.
SELECT make_queue(57, 'contact', 'x1 x2');
CREATE FUNCTION deposit(name text) RETURNS text LANGUAGE sql AS $$
    SELECT outcome FROM qs.deposit(1::smallint, nonce(), address(name), 'hello', 2::smallint, 5);
$$;
UPDATE qs.settings SET deposits_per_day = 2, deposit_refills = 1;
SELECT deposit('x1'), deposit('x1'), deposit('x1'), deposit('x2'), deposit('x1');
SELECT bytes(57);
SELECT read_up_to(57, 1);
SELECT deposit('x1');
SELECT read_up_to(57, 4);
SELECT deposit('x1'), deposit('x1'), deposit('x1'), deposit('x2');
SELECT bytes(57);
SELECT read_up_to(57, 8);
-- Enough for today: told once, read or not.
SELECT deposit('x1'), deposit('x2'), deposit('x1'), deposit('x2');
SELECT bytes(57);
SELECT * FROM qs.add_addresses(1::smallint, nonce(), queue(57), sha256('owner 57'), ARRAY[address('x3')]);
SELECT deposit('x3');
UPDATE qs.settings SET deposits_per_day = 200, deposit_refills = 4;
