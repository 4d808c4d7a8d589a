-- Schema of a test's database: the real tables, the real functions of qs, and of the AAS only what a token check
-- touches. Run by tests/run from any directory.
SET client_min_messages = warning;
\set ON_ERROR_STOP on
\ir ../../migrations/V1__foundation.sql
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA postern TO postern_owner;
-- As `postern migrate` does with everything that a superuser's migration made.
ALTER TABLE operator.settings OWNER TO postern_owner;
ALTER TABLE operator.calendar OWNER TO postern_owner;
ALTER TABLE operator.days OWNER TO postern_owner;
-- For the functions below, which every role of a test calls.
GRANT USAGE ON SCHEMA public TO PUBLIC;

SET ROLE postern_owner;
\ir ../../migrations/V2__auth.sql
\ir ../../migrations/V3__aas.sql
\ir ../../migrations/V4__ds.sql
\ir ../../migrations/V5__qs.sql
-- The tests' nonces are short.
ALTER TABLE aas.spent ALTER nonce TYPE bytea;
CREATE TABLE aas.spent_1 PARTITION OF aas.spent FOR VALUES IN (1);
\ir ../../sql/aas/spend_token.sql
\ir ../../sql/prices.sql
\ir ../../sql/qs/create_queue.sql
\ir ../../sql/qs/add_addresses.sql
\ir ../../sql/qs/deposit.sql
\ir ../../sql/qs/next_messages.sql
\ir ../../sql/qs/count_skipped.sql
\ir ../../sql/qs/dequeue.sql
\ir ../../sql/qs/drop_queues.sql
\ir ../../sql/qs/count_removed.sql
\ir ../../sql/operator/note_day.sql
\ir ../../sql/qs/remove_expired.sql
\ir ../../sql/qs/remove_inactive_friendships.sql
\ir ../../sql/qs/remove_old_addresses.sql
\ir ../../sql/qs/scrub_deleted.sql
\ir ../../sql/qs/keep_up.sql
\ir ../../sql/qs/start_upkeep.sql
\ir ../../sql/qs/lock_addresses.sql
\ir ../../sql/qs/revoke_addresses.sql
\ir ../../sql/qs/rotate_keys.sql
\ir ../../sql/qs/delete_queue.sql
\ir ../../sql/qs/subscribe_push.sql
\ir ../../sql/qs/set_push_policy.sql
\ir ../../sql/qs/drop_push_subscription.sql
RESET ROLE;

-- Things to talk about: queue 1, 2, 3 … and the addresses a, b, c … of the tests.
CREATE FUNCTION queue(n integer) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN substr(sha256(('queue ' || n)::bytea), 1, 16);
CREATE FUNCTION address(name text) RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN sha256(('address ' || name)::bytea);
-- A usable X25519 public key: the base point.
CREATE FUNCTION hpke_key() RETURNS bytea LANGUAGE sql IMMUTABLE
    RETURN '\x0900000000000000000000000000000000000000000000000000000000000000'::bytea;
CREATE SEQUENCE nonces;
CREATE FUNCTION nonce() RETURNS bytea LANGUAGE sql VOLATILE
    RETURN sha256(nextval('nonces')::text::bytea);

-- A queue with addresses named in the text, e.g. queue 2 of kind group with a and b.
CREATE FUNCTION make_queue(n integer, kind text, addresses text) RETURNS text LANGUAGE sql AS $$
    SELECT (SELECT outcome FROM qs.create_queue(1::smallint, nonce(), queue(n), kind,
                                                sha256(('owner ' || n)::bytea), hpke_key()))
        || ', ' ||
           (SELECT outcome FROM qs.add_addresses(1::smallint, nonce(), queue(n), sha256(('owner ' || n)::bytea),
                (SELECT array_agg(address(name)) FROM unnest(string_to_array(addresses, ' ')) AS name)));
$$;
-- Delivers payload number parts[i] to addresses[i] and names the addresses that are gone or, in
-- brackets, have no room.
CREATE FUNCTION deliver(grp text, addresses text, parts smallint[], payloads text[],
                        domain text DEFAULT 'example.org', urgency smallint DEFAULT 2) RETURNS text LANGUAGE sql
-- As the role of the server has them (migrations/V1__foundation.sql).
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
    SELECT coalesce(string_agg(CASE fate WHEN 1 THEN name ELSE '(' || name || ')' END, ' ' ORDER BY position)
                        FILTER (WHERE fate <> 0), 'all delivered')
      FROM unnest(postern.deliver(domain, grp::bytea,
                (SELECT array_agg(address(n) ORDER BY i)
                   FROM unnest(string_to_array(addresses, ' ')) WITH ORDINALITY AS a (n, i)),
                parts,
                (SELECT array_agg(p::bytea ORDER BY i) FROM unnest(payloads) WITH ORDINALITY AS a (p, i)),
                (SELECT array_agg(urgency) FROM unnest(payloads))))
           WITH ORDINALITY AS f (fate, position)
      JOIN unnest(string_to_array(addresses, ' ')) WITH ORDINALITY AS a (name, position) USING (position);
$$;
-- The messages of a queue, without what is random.
CREATE FUNCTION messages(n integer)
RETURNS TABLE (seq bigint, chain bigint, chain_index integer, header integer, bytes integer) LANGUAGE sql AS $$
    SELECT seq, chain, chain_index, octet_length(chain_header), octet_length(ciphertext)
      FROM qs.messages WHERE queue_id = queue(n) ORDER BY seq;
$$;
-- Holds an index against its table, where this PostgreSQL has amcheck.
CREATE FUNCTION check_index(index regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck' AND installed_version IS NULL) THEN
        CREATE EXTENSION amcheck;
    END IF;
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'amcheck') THEN
        PERFORM bt_index_check(index, true);
    END IF;
END
$$;
