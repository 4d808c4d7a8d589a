-- Delivery (DS-5, QS-2, QS-3, QS-5): order, sequence numbers, who reaches what.
SELECT make_queue(1, 'group', 'a1 b1');
SELECT make_queue(2, 'group', 'a2');
SELECT make_queue(3, 'contact', 'a3');

-- One payload to several queues; the first message of a queue starts its chain.
SELECT deliver('g', 'a1 a2', '{1,1}', '{hello}');
SELECT * FROM messages(1);
SELECT * FROM messages(2);
-- The chain goes on.
SELECT deliver('g', 'a1 a2', '{1,1}', '{again}');
SELECT * FROM messages(1);

-- Several parts and two addresses of one queue: in the order given, without gaps.
SELECT deliver('g', 'a1 a2 b1 a1', '{1,2,3,4}', '{x,xx,xxx,yyy}');
SELECT * FROM messages(1);
SELECT * FROM messages(2);
SELECT next_seq, acked_seq, last_chain FROM qs.queues WHERE queue_id = queue(1);
-- Every ciphertext differs, also of equal payloads.
SELECT count(*) = count(DISTINCT ciphertext) FROM qs.messages;

-- A payload that comes by several addresses of a queue is in it once, and the sender is not told.
SELECT make_queue(8, 'group', 'a8 b8');
SELECT deliver('g', 'a8 b8 a8', '{1,1,1}', '{once}');
SELECT seq FROM messages(8);

-- An address is bound to the first (domain, group) that used it.
SELECT deliver('other', 'a1 a2', '{1,1}', '{no}');
SELECT deliver('g', 'a1 a2', '{1,1}', '{no}', 'example.com');
SELECT deliver('g', 'a1 a2', '{1,1}', '{yes}');
SELECT count(*) FROM messages(1);

-- The wrong kind of queue, unknown addresses, malformed ones; the rest is delivered.
SELECT deliver('g', 'a1 a3 nobody nobody', '{1,1,1,1}', '{part}');
SELECT deliver(NULL, 'a1 a3', '{1,1}', '{deposit}', NULL);
SELECT count(*) FROM messages(1);
SELECT * FROM messages(3);
SELECT postern.deliver('example.org', 'g', ARRAY['\x00'::bytea, ''], '{1,1}', '{x}', '{2}');
SELECT postern.deliver('example.org', 'g', '{}', '{}', '{}', '{}');
-- An address that was used for nothing is still free.
SELECT lookup IS NOT NULL AND binding IS NULL FROM qs.addresses WHERE lookup =
    (SELECT lookup FROM postern.seal_addresses(ARRAY[address('a3')], queue(3)));

-- A full queue takes nothing, the others do; letters to one queue go in as long as there is room.
UPDATE qs.settings SET group_queue_depth = 8;
SELECT count(*) FROM messages(1);
SELECT deliver('g', 'a1 a2 b1', '{1,1,2}', '{too many,too much}');
SELECT deliver('g', 'a1 a2', '{1,1}', '{fits}');
SELECT deliver('g', 'a1 a2', '{1,1}', '{full}');
UPDATE qs.settings SET group_queue_depth = 10000;

-- A new chain: after so many messages,
UPDATE qs.settings SET chain_messages = 2;
SELECT deliver('g', 'a2', '{1}', '{new}');
SELECT deliver('g', 'a2', '{1}', '{new}');
SELECT deliver('g', 'a2', '{1}', '{new}');
SELECT * FROM messages(2) WHERE chain > 1;
UPDATE qs.settings SET chain_messages = 1000;
-- after so many hours,
UPDATE qs.settings SET chain_hours = 0;
SELECT deliver('g', 'a2', '{1}', '{new}');
UPDATE qs.settings SET chain_hours = 24;
-- when there is none (as after a restart, or when others needed its place),
SELECT postern.forget_chain(queue(2));
SELECT deliver('g', 'a2', '{1}', '{new}');
-- when it is not the queue's last one (as after a rotation of its keys),
UPDATE qs.queues SET last_chain = last_chain + 1 WHERE queue_id = queue(2);
SELECT deliver('g', 'a2', '{1}', '{new}');
-- or when the transaction that started it failed.
SELECT postern.forget_chain(queue(2));
BEGIN;
SELECT deliver('g', 'a2', '{1}', '{gone}');
ROLLBACK;
SELECT deliver('g', 'a2', '{1}', '{new}');
SELECT deliver('g', 'a2', '{1}', '{goes on}');
SELECT * FROM messages(2) WHERE chain > 3;
SELECT kept > 0 AS kept, evicted FROM postern.chains();

-- An owner whose HPKE key is useless harms nobody else.
SELECT make_queue(4, 'group', 'a4');
UPDATE qs.queues SET hpke_key = decode(repeat('00', 32), 'hex') WHERE queue_id = queue(4);
SELECT deliver('g', 'a4 a1', '{1,1}', '{key}');
SELECT next_seq, last_chain FROM qs.queues WHERE queue_id = queue(4);
-- Its address stays free for whom it was meant.
UPDATE qs.queues SET hpke_key = hpke_key() WHERE queue_id = queue(4);
SELECT deliver('h', 'a4', '{1}', '{first}');

-- A delivery that is rolled back did not happen.
BEGIN;
SELECT deliver('g', 'a2', '{1}', '{gone}');
ROLLBACK;
SELECT max(seq) = (SELECT next_seq - 1 FROM qs.queues WHERE queue_id = queue(2)) FROM messages(2);
-- Its key is used up all the same.
SELECT chain_index FROM messages(2) ORDER BY seq DESC LIMIT 1;
SELECT deliver('g', 'a2', '{1}', '{after}');
SELECT chain_index FROM messages(2) ORDER BY seq DESC LIMIT 1;

-- A caller's mistakes are faults.
SELECT postern.deliver('example.org', 'g', ARRAY[address('a1')], '{2}', '{x}', '{2}');
SELECT postern.deliver('example.org', 'g', ARRAY[address('a1')], '{0}', '{x}', '{2}');
SELECT postern.deliver('example.org', 'g', ARRAY[address('a1')], '{}', '{x}', '{2}');
SELECT postern.deliver('example.org', 'g', ARRAY[address('a1'), NULL], '{1,1}', '{x}', '{2}');
SELECT postern.deliver('example.org', 'g', ARRAY[address('a1')], '{1}', ARRAY[NULL::bytea], '{2}');
SELECT postern.deliver(NULL, 'g', ARRAY[address('a1')], '{1}', '{x}', '{2}');
SELECT postern.deliver(repeat('d', 256), 'g', ARRAY[address('a1')], '{1}', '{x}', '{2}');
SELECT postern.deliver('example.org', 'g', ARRAY[address('a1')], '{1}', '{x}', '{}');
SELECT postern.deliver('example.org', 'g', ARRAY[address('a1')], '{1}', '{x}', '{4}');

-- Its commit could happen where the wake-up is not known.
BEGIN;
SELECT deliver('g', 'a2', '{1}', '{prepared}');
PREPARE TRANSACTION 'p';

-- Rows are written as SQL writes them. Many updates in one transaction leave the queue's page, so
-- that its indexes get new entries: all rows are found by their index, and large payloads, too.
SELECT make_queue(5, 'group', 'a5');
DO $$
BEGIN
    FOR n IN 1..200 LOOP
        PERFORM deliver('g', 'a5', '{1}', '{part}');
    END LOOP;
END
$$;
SELECT postern.deliver('example.org', 'g', ARRAY[address('a5')], '{1}', ARRAY[decode(repeat('ab', 100000), 'hex')], '{2}');
SELECT next_seq FROM qs.queues WHERE queue_id = queue(5);
SELECT count(*), max(seq), max(octet_length(ciphertext)) FROM messages(5) m JOIN qs.messages USING (seq) WHERE queue_id = queue(5);
SELECT check_index(x) FROM unnest('{qs.queues_pkey, qs.messages_pkey, qs.addresses_pkey}'::regclass[]) x;
-- Constraints hold,
\set VERBOSITY terse
ALTER TABLE qs.messages ADD CONSTRAINT small CHECK (octet_length(ciphertext) < 100) NOT VALID;
SELECT postern.deliver('example.org', 'g', ARRAY[address('a5')], '{1}', ARRAY[decode(repeat('ab', 100), 'hex')], '{2}');
ALTER TABLE qs.messages DROP CONSTRAINT small;
-- rights, all of them,
CREATE ROLE nobody_special;
GRANT USAGE ON SCHEMA postern, qs, operator TO nobody_special;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA postern TO nobody_special;
GRANT SELECT ON qs.addresses, qs.settings, qs.queues, operator.calendar TO nobody_special;
GRANT INSERT ON qs.messages TO nobody_special;
SET ROLE nobody_special;
SELECT postern.deliver('example.org', 'g', ARRAY[decode(repeat('a5', 32), 'hex')], '{1}', '{x}', '{2}');
SELECT postern.deliver('example.org', 'g', ARRAY[public.address('a5')], '{1}', '{x}', '{2}');
RESET ROLE;
GRANT UPDATE ON qs.queues TO nobody_special;
SET ROLE nobody_special;
SELECT postern.deliver('example.org', 'g', ARRAY[public.address('a5')], '{1}', '{x}', '{2}');
RESET ROLE;
DROP OWNED BY nobody_special;
DROP ROLE nobody_special;
-- and that a transaction only reads.
BEGIN READ ONLY;
SELECT deliver('g', 'a5', '{1}', '{x}');
ROLLBACK;
-- Tables that SQL would treat in another way are refused: with triggers, generated columns, and columns of other types.
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER nothing BEFORE INSERT ON qs.messages FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT deliver('g', 'a5', '{1}', '{x}');
DROP TRIGGER nothing ON qs.messages;
SELECT deliver('g', 'a5', '{1}', '{x}');
ALTER TABLE qs.messages ADD generated integer GENERATED ALWAYS AS (chain_index + 1) STORED;
SELECT deliver('g', 'a5', '{1}', '{x}');
ALTER TABLE qs.messages DROP generated;
ALTER TABLE qs.messages ALTER chain_index TYPE bigint;
SELECT deliver('g', 'a5', '{1}', '{x}');
ALTER TABLE qs.messages ALTER chain_index TYPE integer;
-- A column that came later gets its default, or nothing, if it may.
ALTER TABLE qs.messages ADD later text NOT NULL DEFAULT 'then', ADD none integer, ADD CONSTRAINT here CHECK (tableoid = 'qs.messages'::regclass);
ALTER TABLE qs.messages ALTER later SET DEFAULT 'now ' || (1 + 1);
SELECT deliver('g', 'a5 a5', '{1,2}', '{x,x}');
SELECT later, none, count(*) FROM qs.messages WHERE queue_id = queue(5) GROUP BY 1, 2 ORDER BY 1;
ALTER TABLE qs.messages DROP later, DROP none, DROP CONSTRAINT here, ADD required integer;
UPDATE qs.messages SET required = 0;
ALTER TABLE qs.messages ALTER required SET NOT NULL;
SELECT deliver('g', 'a5', '{1}', '{x}');
ALTER TABLE qs.messages DROP required;
SELECT deliver('g', 'a5', '{1}', '{x}');
SELECT check_index('qs.messages_pkey');
