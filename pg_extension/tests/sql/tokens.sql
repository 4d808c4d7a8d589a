-- A token is spent once (AAS-4).
SELECT postern.spend_token(1::smallint, '\x01');
SELECT postern.spend_token(1::smallint, '\x01');

-- What is rolled back was not spent.
BEGIN;
SELECT postern.spend_token(1::smallint, '\x02');
ROLLBACK;
SELECT postern.spend_token(1::smallint, '\x02');

-- Nor is what a savepoint takes back.
BEGIN;
SAVEPOINT s;
SELECT postern.spend_token(1::smallint, '\x03');
ROLLBACK TO s;
SELECT postern.spend_token(1::smallint, '\x03');
COMMIT;

-- A key without a partition is a fault, not an answer.
\set VERBOSITY sqlstate
SELECT postern.spend_token(2::smallint, '\x01');

-- Nobody executes what was not granted.
SET ROLE postern_server;
SELECT postern.spend_token(1::smallint, '\x04');
SELECT postern.deliver(NULL, NULL, '{}', '{}', '{}');
SELECT postern.seal_addresses('{}', '\x00');
SELECT postern.wake_secret();
SELECT postern.wake_all();
SELECT postern.wakeups();
