\echo Use "CREATE EXTENSION postern" to load this file. \quit

-- Functions that every request calls have no SET clauses: each costs a delivery to 10 queues some 15 of 400
-- microseconds. Their callers, our own functions, all set the same search_path (a kept plan is thrown away when that
-- changes between calls), and the role postern_server says how statements are planned (migrations/V1__foundation.sql).

-- Tokens (AAS-4, AAS-5)

CREATE FUNCTION @extschema@.spend_token(endpoint text, issuer_key smallint, nonce bytea)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'spend_token_wrapper';
COMMENT ON FUNCTION @extschema@.spend_token(text, smallint, bytea) IS
    'Writes the nonce to aas.spent if aas.prices has the price 1 for the endpoint; at price 0 the digest of a signature, bytes 33 to 64 of the nonce, to aas.used_signatures. Returns false if it was there already, or that digest. An endpoint that is not in the list, or null, is an error';

CREATE FUNCTION @extschema@.forget()
RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'forget_wrapper';
COMMENT ON FUNCTION @extschema@.forget() IS
    'Trigger of aas.prices and qs.settings: every session, which keeps the table in memory, reads it anew once the transaction is committed';

-- Delivery (DS-5, QS-2 to QS-5, QS-10)

CREATE FUNCTION @extschema@.deliver(
    domain text, group_id bytea, addresses bytea[], parts smallint[], payloads bytea[], urgencies smallint[])
RETURNS smallint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'deliver_wrapper';
COMMENT ON FUNCTION @extschema@.deliver(text, bytea, bytea[], smallint[], bytea[], smallint[]) IS
    'Delivers payloads[parts[i]], of urgency urgencies[parts[i]] (0 = very-low to 3 = high), to the queue behind addresses[i]. Returns nothing if all were delivered, else for each address 0 = delivered, 1 = gone (unknown, revoked, its queue deleted, or another group''s), 2 = no room at present, of which the owner is told in the queue (QS-11). With a group_id it reaches only group queues, to whose addresses (domain, group_id) is bound on first use unless they are last_resort; without one only contact queues. Addresses of deleted queues are dropped. At most one call in a transaction: it locks the queues in order';

CREATE FUNCTION @extschema@.deliver_groups(
    domain text, group_ids bytea[], groups smallint[], addresses bytea[], parts smallint[], payloads bytea[],
    urgencies smallint[])
RETURNS smallint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'deliver_groups_wrapper';
COMMENT ON FUNCTION @extschema@.deliver_groups(text, bytea[], smallint[], bytea[], smallint[], bytea[], smallint[]) IS
    'Does for several groups of a domain what deliver() does for one: what goes to addresses[i] is of the group group_ids[groups[i]]. A queue gets its messages in the order of i. Groups that no address is of may be null';

CREATE FUNCTION @extschema@.take_pushes()
RETURNS bytea[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'take_pushes_wrapper';
COMMENT ON FUNCTION @extschema@.take_pushes() IS
    'Returns the pushes that the session''s last delivery makes due, for the server to send after the transaction: urgency, queue id, key and sealed subscription of each; null when there are none';

CREATE FUNCTION @extschema@.seal_addresses(
    addresses bytea[], queue_id bytea, OUT lookup bytea, OUT sealed_queue_id bytea)
RETURNS SETOF record
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'seal_addresses_wrapper';
COMMENT ON FUNCTION @extschema@.seal_addresses(bytea[], bytea) IS
    'Returns what qs.addresses keeps of each address of a queue, in the order given';

-- Chains (QS-5)

CREATE FUNCTION @extschema@.forget_chain(queue_id bytea)
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'forget_chain_wrapper';
COMMENT ON FUNCTION @extschema@.forget_chain(bytea) IS
    'Erases the key of a queue''s chain, at once and whatever becomes of the transaction; the queue''s next message starts a new chain';

CREATE FUNCTION @extschema@.chains(OUT room bigint, OUT kept bigint, OUT evicted bigint)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL SAFE
ROWS 1
AS 'MODULE_PATHNAME', 'chains_wrapper';
COMMENT ON FUNCTION @extschema@.chains() IS
    'Counts the chains of the whole cluster in shared memory: how many there is room for (postern.max_chains), how many are kept, and how many had to make room for others since PostgreSQL started; all zero when postern is not in shared_preload_libraries, and then every message starts a chain';

-- Names (AS-1)

CREATE FUNCTION @extschema@.user_name(name text)
RETURNS text
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'user_name_wrapper';
COMMENT ON FUNCTION @extschema@.user_name(text) IS
    'Returns the one form of the part of a user name before the @ (PRECIS UsernameCaseMapped, RFC 8265; one script, UTS #39 §5.2); null for what is none';

CREATE FUNCTION @extschema@.skeleton(name text)
RETURNS text
LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'skeleton_wrapper';
COMMENT ON FUNCTION @extschema@.skeleton(text) IS
    'Returns the form in which such names are compared (UTS #39 §4, without case, dots, hyphens and underscores): two names with the same skeleton are taken for each other. A version whose Unicode tables differ computes the stored skeletons anew';

-- Wake-ups (QS-9)

CREATE FUNCTION @extschema@.wake_secret()
RETURNS bytea
LANGUAGE c STRICT STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'wake_secret_wrapper';
COMMENT ON FUNCTION @extschema@.wake_secret() IS
    'Returns the 32 bytes that make wake keys, the first 16 bytes of HMAC-SHA256(secret, queue_id), and that notifications on channel postern_wake are sealed under (protocol/src/wake.rs). Changes when PostgreSQL starts; all zero when postern is not in shared_preload_libraries';

CREATE FUNCTION @extschema@.open_wakeup(payload text)
RETURNS text
LANGUAGE c STRICT STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'open_wakeup_wrapper';
COMMENT ON FUNCTION @extschema@.open_wakeup(text) IS
    'Tells what a notification on channel postern_wake says: the base64 of wake keys, or * for everyone; null for one that this database did not send';

CREATE FUNCTION @extschema@.wake_all()
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'wake_all_wrapper';
COMMENT ON FUNCTION @extschema@.wake_all() IS
    'Tells every waiter, on channel postern_wake, to look again, when the transaction commits';

CREATE FUNCTION @extschema@.wakeups(
    OUT preloaded boolean, OUT worker_pid integer, OUT pending integer,
    OUT overflowed bigint, OUT sent bigint)
RETURNS SETOF record
LANGUAGE c STRICT VOLATILE PARALLEL SAFE
ROWS 1
AS 'MODULE_PATHNAME', 'wakeups_wrapper';
COMMENT ON FUNCTION @extschema@.wakeups() IS
    'Shows the state of this database''s notifier: whether the library is preloaded (else transactions notify themselves), its process, keys waiting, how often more keys came than there is room for, notifications sent';

-- Upkeep (QS-8, PRIV-3)

CREATE FUNCTION @extschema@.start_upkeep()
RETURNS boolean
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'start_upkeep_wrapper';
COMMENT ON FUNCTION @extschema@.start_upkeep() IS
    'Starts a background worker that calls qs.keep_up() until nothing is left to do. Returns false when PostgreSQL has none to spare (max_worker_processes)';

CREATE FUNCTION @extschema@.scrub(relation regclass, first_block bigint, blocks integer)
RETURNS boolean
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'scrub_wrapper';
COMMENT ON FUNCTION @extschema@.scrub(regclass, bigint, integer) IS
    'Overwrites what deleted rows left between the rows of so many pages of a table, once VACUUM has taken them off. Returns false when there are no more pages';

-- Its owner is a superuser, since nobody else reads files: these, and nothing that a caller names.
CREATE FUNCTION @extschema@.recoveries(OUT timeline integer, OUT reason text) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT h.parts[1]::integer, h.parts[2]
      FROM regexp_matches(
               CASE WHEN NOT pg_is_in_recovery()
                    THEN pg_read_file('pg_wal/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.history',
                                      0, 1048576, true) END,
               '^\s*(\d+)\s+\S+\s+(.*)$', 'gn') AS h (parts)
$$;
COMMENT ON FUNCTION @extschema@.recoveries() IS
    'Lists the timelines before this one, and why each ended, in PostgreSQL''s words: no recovery target specified is a promotion, or a recovery up to the newest WAL';

REVOKE ALL ON FUNCTION
    @extschema@.recoveries(),
    @extschema@.spend_token(text, smallint, bytea),
    @extschema@.forget(),
    @extschema@.deliver(text, bytea, bytea[], smallint[], bytea[], smallint[]),
    @extschema@.deliver_groups(text, bytea[], smallint[], bytea[], smallint[], bytea[], smallint[]),
    @extschema@.take_pushes(),
    @extschema@.seal_addresses(bytea[], bytea),
    @extschema@.forget_chain(bytea),
    @extschema@.chains(),
    @extschema@.user_name(text),
    @extschema@.skeleton(text),
    @extschema@.wake_secret(),
    @extschema@.open_wakeup(text),
    @extschema@.wake_all(),
    @extschema@.wakeups(),
    @extschema@.start_upkeep(),
    @extschema@.scrub(regclass, bigint, integer)
FROM PUBLIC;
