-- operator.figures: tells figures of the database that cost little: sizes, sessions, transactions, the notifier, chains,
-- upkeep, the ends of keys, and what waits for other homeservers. There is no id in them and no name but the domains of
-- homeservers: those that the operator allowed, then those that took a delivery, known for longest first, but of a
-- family of names (federation.family) one before the second of any: nobody takes the others' places with a hundred
-- names.
--
--   neighbours: number of domains that are told apart; all others are `other` together
--
-- Columns of the result:
--
--   figure: its name
--   label: what it is of; null: it is the only one of its name
--   value: the value; sizes are in bytes, moments in seconds since 1970
--
-- Called by the operator and by monitoring; by each server process for metrics, and by `postern status`.
CREATE OR REPLACE FUNCTION operator.figures(neighbours integer DEFAULT 100)
RETURNS TABLE (figure text, label text, value double precision)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH clock AS (
        SELECT (now() AT TIME ZONE 'UTC')::date AS today
    ), tables AS (
        SELECT CASE WHEN t.name = ANY (ARRAY[
                   'aas.issued', 'aas.requests', 'aas.spent', 'aas.used_signatures', 'auth.clients', 'auth.eid_log',
                   'auth.incarnations', 'auth.profiles', 'auth.users', 'ds.groups', 'ds.welcome_trees', 'federation.outbox',
                   'federation.set_aside', 'federation.tokens', 'qs.addresses', 'qs.key_packages', 'qs.messages', 'qs.queues'])
                    THEN t.name ELSE 'others' END AS name, t.bytes
          FROM (SELECT coalesce(pg_partition_root(c.oid), c.oid::regclass)::text AS name,
                       pg_total_relation_size(c.oid) AS bytes
                  FROM pg_class c
                 WHERE c.relowner = 'postern_owner'::regrole AND c.relkind IN ('r', 'p')) t
    ), sessions AS (
        SELECT a.datid = d.oid AS is_here,
               CASE WHEN a.state IN ('active', 'idle') THEN a.state
                    WHEN a.state LIKE 'idle in transaction%' THEN 'idle_in_transaction' ELSE 'other' END AS state,
               a.xact_start
          FROM pg_stat_activity a, pg_database d
         WHERE a.backend_type = 'client backend' AND d.datname = current_database()
    ), known AS (
        SELECT k.*,
               CASE WHEN k.first_success IS NOT NULL OR k.is_allowed
                    THEN row_number() OVER (ORDER BY NOT k.is_allowed, k.first_success IS NULL, k.of_family, k.first_success,
                                                     k.domain COLLATE "C") END AS place
          FROM (SELECT n.domain, n.state, n.queued, n.queued_bytes, n.oldest, n.set_aside, n.tokens, l.first_success,
                       n.rule IS NOT DISTINCT FROM 'allowed' AS is_allowed,
                       row_number() OVER (PARTITION BY federation.family(n.domain)
                                          ORDER BY l.first_success, n.domain COLLATE "C") AS of_family
                  FROM operator.neighbours() n
                  LEFT JOIN federation.neighbours l ON l.domain = n.domain
                 -- A standby has no unlogged tables.
                 WHERE current_setting('in_hot_standby') = 'off') k
    ), neighbours AS (
        SELECT k.label, sum(k.queued) AS queued, sum(k.queued_bytes) AS bytes, max(c.today - k.oldest) AS days,
               sum(k.set_aside) AS set_aside, sum(k.tokens) AS tokens,
               count(*) FILTER (WHERE k.state = 'failing') AS failing,
               count(*) FILTER (WHERE k.state = 'out_of_tokens') AS out_of_tokens
          FROM clock c,
               (SELECT CASE WHEN k.place <= figures.neighbours THEN k.domain ELSE 'other' END AS label,
                       k.state, k.queued, k.queued_bytes, k.oldest, k.set_aside, k.tokens
                  FROM known k
                 UNION ALL
                SELECT 'other', 'idle', 0, 0, NULL, 0, 0) k
         GROUP BY k.label
    )
    SELECT 'database_bytes', NULL, pg_database_size(current_database())
    UNION ALL
    SELECT 'table_bytes', t.name, sum(t.bytes) FROM tables t GROUP BY t.name
    UNION ALL
    SELECT 'wal_bytes', NULL, coalesce(sum(w.size), 0) FROM pg_ls_waldir() w
    UNION ALL
    SELECT 'wal_written_bytes', NULL,
           pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, '0/0')
    UNION ALL
    SELECT 'sessions', s.state, (SELECT count(*) FROM sessions o WHERE o.is_here AND o.state = s.state)
      FROM unnest(ARRAY['active', 'idle', 'idle_in_transaction', 'other']) AS s (state)
    UNION ALL
    SELECT 'sessions_all', NULL, count(*) FROM sessions
    UNION ALL
    SELECT 'sessions_max', NULL,
           current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
    UNION ALL
    SELECT 'oldest_transaction_seconds', NULL, coalesce(extract(epoch FROM max(clock_timestamp() - s.xact_start)), 0)
      FROM sessions s
     WHERE s.is_here
    UNION ALL
    SELECT 'transaction_id_age', NULL, age(d.datfrozenxid) FROM pg_database d WHERE d.datname = current_database()
    UNION ALL
    SELECT f.figure, NULL, f.value
      FROM pg_stat_database d,
           LATERAL (VALUES ('commits', d.xact_commit), ('rollbacks', d.xact_rollback), ('deadlocks', d.deadlocks))
               AS f (figure, value)
     WHERE d.datname = current_database()
    UNION ALL
    SELECT f.figure, NULL, f.value
      FROM postern.wakeups() w,
           LATERAL (VALUES ('notifier_preloaded', w.preloaded::integer),
                           ('notifier_running', (w.worker_pid IS NOT NULL)::integer),
                           ('notifier_pending', w.pending), ('notifier_overflows', w.overflowed), ('notifier_sent', w.sent))
               AS f (figure, value)
    UNION ALL
    SELECT f.figure, NULL, f.value
      FROM postern.chains() c,
           LATERAL (VALUES ('chains_max', c.room), ('chains', c.kept), ('chains_evicted', c.evicted)) AS f (figure, value)
    UNION ALL
    SELECT f.figure, NULL, f.value
      FROM clock c, operator.schema_state m, qs.sweep w,
           LATERAL (VALUES ('upkeep_days', c.today - greatest(w.day, m.applied)),
                           ('upkeep_finished', (w.position IS NULL)::integer)) AS f (figure, value)
    UNION ALL
    SELECT f.figure, f.label, f.value
      FROM clock c
      LEFT JOIN qs.removed r ON r.day = c.today,
           LATERAL (VALUES ('removed_messages', 'expired', coalesce(r.expired_messages, 0)),
                           ('removed_messages', 'of_inactive_queues', coalesce(r.their_messages, 0)),
                           ('removed_messages', 'purged', coalesce(r.purged_messages, 0)),
                           ('removed_queues', NULL, coalesce(r.inactive_queues, 0))) AS f (figure, label, value)
    UNION ALL
    SELECT 'key_ends', k.label, extract(epoch FROM k.ends::timestamp AT TIME ZONE 'UTC')
      FROM (SELECT 'issuer_' || k.token_type, max(k.not_after) FROM aas.issuer_keys k GROUP BY k.token_type
             UNION ALL
            SELECT CASE k.service WHEN 'federation' THEN 'homeserver' ELSE k.service END, max(k.not_after) + 1
              FROM auth.signing_keys k
             WHERE k.revoked IS NULL
             GROUP BY k.service
             UNION ALL
            SELECT 'gateway', max(k.not_after) + 1 FROM federation.gateway_keys k HAVING count(*) > 0) AS k (label, ends)
    UNION ALL
    SELECT f.figure, n.label, f.value
      FROM neighbours n,
           LATERAL (VALUES ('outbox', n.queued), ('outbox_bytes', n.bytes), ('outbox_days', coalesce(n.days, 0)),
                           ('set_aside', n.set_aside), ('wallet', n.tokens), ('failing', n.failing),
                           ('out_of_tokens', n.out_of_tokens)) AS f (figure, value)
    UNION ALL
    SELECT 'neighbours', NULL, count(*) FROM known
$$;
