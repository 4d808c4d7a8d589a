-- A token is spent once (AAS-4).
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x01');
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x01');
SELECT postern.spend_token('qs.dequeue', 1::smallint, '\x01') AS for_something_else;

-- A token whose transaction is rolled back was not spent.
BEGIN;
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x02');
ROLLBACK;
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x02');

-- Nor is what a savepoint takes back.
BEGIN;
SAVEPOINT s;
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x03');
ROLLBACK TO s;
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x03');
COMMIT;

-- The price list holds as it is now (AAS-5): what is free spends nothing.
UPDATE aas.prices SET price = 0 WHERE endpoint = 'qs.deposit';
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x04');
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x04');
SELECT postern.spend_token('qs.dequeue', 1::smallint, '\x04') AS another_is_not_free;
UPDATE aas.prices SET price = 1 WHERE endpoint = 'qs.deposit';
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x04');
-- A change that is taken back was none; one that bypasses ordinary triggers is told as well.
BEGIN;
UPDATE aas.prices SET price = 0 WHERE endpoint = 'qs.deposit';
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x04');
ROLLBACK;
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x04');
SET session_replication_role = replica;
UPDATE aas.prices SET price = 0 WHERE endpoint = 'qs.deposit';
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x04');
UPDATE aas.prices SET price = 1 WHERE endpoint = 'qs.deposit';
RESET session_replication_role;

-- A signed request that spends no token uses its signature up instead, whose digest is behind the nonce (AAS-4). A
-- signature that was used spends no token later, either.
CREATE FUNCTION signed(nonce text, signature text) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN sha256(nonce::bytea) || sha256(signature::bytea);
UPDATE aas.prices SET price = 0 WHERE endpoint = 'qs.deposit';
SELECT postern.spend_token('qs.deposit', 1::smallint, signed('a', 'one'));
SELECT postern.spend_token('qs.deposit', 1::smallint, signed('a', 'one')) AS again;
SELECT postern.spend_token('qs.deposit', 1::smallint, signed('a', 'two')) AS signed_anew;
SELECT postern.spend_token('qs.deposit', 1::smallint, substr(signed('a', ''), 1, 32)) AS unsigned;
BEGIN;
SELECT postern.spend_token('qs.deposit', 1::smallint, signed('a', 'three'));
ROLLBACK;
SELECT postern.spend_token('qs.deposit', 1::smallint, signed('a', 'three')) AS after_a_fault;
UPDATE aas.prices SET price = 1 WHERE endpoint = 'qs.deposit';
SELECT postern.spend_token('qs.deposit', 1::smallint, signed('a', 'one')) AS used_for_nothing;
SELECT count(*) AS spent FROM aas.spent WHERE nonce = sha256('a');
SELECT postern.spend_token('qs.deposit', 1::smallint, signed('a', 'four'));
SELECT postern.spend_token('qs.deposit', 1::smallint, signed('a', 'five')) AS spent_before;
SELECT count(*) AS signatures FROM aas.used_signatures;

-- Whatever the search_path is, and whoever's operators are in it.
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.always(smallint, integer) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR hostile.= (FUNCTION = hostile.always, LEFTARG = smallint, RIGHTARG = integer);
CREATE FUNCTION hostile.never(bytea, bytea) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR hostile.= (FUNCTION = hostile.never, LEFTARG = bytea, RIGHTARG = bytea);
SET search_path = hostile, pg_catalog;
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x05');
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x05');
SELECT postern.spend_token('qs.deposit', 1::smallint, public.signed('b', 'one'));
RESET search_path;

-- The door of the API functions costs nothing: it becomes what it calls.
EXPLAIN (VERBOSE, COSTS OFF) SELECT aas.spend_token('qs.deposit', 1::smallint, '\x06');

-- A call that nobody should make is a fault, not an answer: with a key without a partition, an
-- endpoint without a price, no token.
\set VERBOSITY sqlstate
SELECT postern.spend_token('qs.deposit', 2::smallint, '\x01');
SELECT postern.spend_token('qs.withdraw', 1::smallint, '\x01');
SELECT postern.spend_token(NULL, 1::smallint, '\x01');
SELECT postern.spend_token('qs.deposit', NULL, '\x01');
SELECT postern.spend_token('qs.deposit', 1::smallint, NULL);

-- Nobody executes what was not granted.
SET ROLE postern_server;
SELECT postern.spend_token('qs.deposit', 1::smallint, '\x04');
SELECT postern.deliver(NULL, NULL, '{}', '{}', '{}', '{}');
SELECT postern.seal_addresses('{}', '\x00');
SELECT postern.wake_secret();
SELECT postern.wake_all();
SELECT postern.wakeups();
