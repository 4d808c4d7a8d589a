-- operator.health: tells the state of the database and of what it keeps for the servers, an item in each row, those that
-- need somebody first. `postern check` and `postern status` tell more: what a server process alone knows, such as its
-- certificate.
--
-- Columns of the result:
--
--   item: what is looked at
--   verdict: ok; warning (it works, and somebody should look soon); problem (something does not work, or will not for long)
--   says: what there is to say
--   mend: how to mend it; null: nothing is to be mended
--
-- Called by the operator and by monitoring; by `postern check`, `postern status`, and for metrics.
CREATE OR REPLACE FUNCTION operator.health()
RETURNS TABLE (item text, verdict operator.health_outcome, says text, mend text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    WITH now AS (
        SELECT (now() AT TIME ZONE 'UTC')::date AS today
    ), clock AS (
        -- As operator.note_day has it, if somebody asked today: else everything that expires is late.
        SELECT n.today,
               CASE WHEN EXISTS (SELECT FROM operator.days d WHERE d.day = n.today)
                    THEN (SELECT least(n.today, min(l.day) + 2)
                            FROM (SELECT d.day FROM operator.days d WHERE d.day <= n.today ORDER BY d.day DESC LIMIT 3) l)
                    ELSE n.today END AS expiry
          FROM now n
    ), items (place, item, verdict, says, mend) AS (
        SELECT 1, 'extension',
               CASE WHEN a.default_version IS DISTINCT FROM e.extversion THEN 'problem' ELSE 'ok' END,
               CASE WHEN a.default_version IS NULL THEN 'its files are gone from the database server'
                    WHEN a.default_version <> e.extversion
                    THEN format('the database has version %s, the database server has %s', e.extversion, a.default_version)
                    ELSE 'postern ' || e.extversion END,
               CASE WHEN a.default_version IS NULL THEN 'install Postern''s extension for this PostgreSQL'
                    ELSE 'run `postern migrate`' END
          FROM pg_extension e
          LEFT JOIN pg_available_extensions a ON a.name = e.extname
         WHERE e.extname = 'postern'
        UNION ALL
        SELECT 2, 'wake-ups',
               CASE WHEN NOT w.preloaded THEN 'problem'
                    WHEN w.pending > 0 AND w.worker_pid IS NULL THEN 'warning' ELSE 'ok' END,
               CASE WHEN NOT w.preloaded
                    THEN 'the extension is not preloaded: each delivery notifies by itself, which is slower under load'
                    WHEN w.pending > 0 AND w.worker_pid IS NULL THEN 'readers are to be woken, and no notifier runs'
                    WHEN w.worker_pid IS NULL THEN 'the extension is preloaded; the first delivery starts the notifier'
                    ELSE 'the extension is preloaded, and the notifier runs' END,
               CASE WHEN NOT w.preloaded THEN 'add postern to shared_preload_libraries and restart PostgreSQL'
                    ELSE 'if it stays like this, raise max_worker_processes; PostgreSQL''s log says why' END
          FROM postern.wakeups() w
        UNION ALL
        SELECT 3, 'chains',
               CASE WHEN c.evicted > 0 AND c.kept >= c.room THEN 'warning' ELSE 'ok' END,
               CASE WHEN c.evicted > 0
                    THEN format('%s of %s places are taken; %s chains made room for others since PostgreSQL started',
                                c.kept, c.room, c.evicted)
                    ELSE format('%s of %s places are taken', c.kept, c.room) END,
               'raise postern.max_chains to twice the number of queues in use, and restart PostgreSQL'
          FROM postern.chains() c
        UNION ALL
        SELECT 4, 'durability',
               CASE WHEN s.fsync = 'off' OR s.synchronous_commit = 'off' THEN 'problem'
                    WHEN s.full_page_writes = 'off' THEN 'warning' ELSE 'ok' END,
               CASE WHEN s.fsync = 'off' THEN 'fsync is off: a crash of the machine can destroy the database'
                    WHEN s.synchronous_commit = 'off'
                    THEN 'synchronous_commit is off: a crash loses messages that were accepted, and makes spent tokens good again'
                    WHEN s.full_page_writes = 'off' THEN 'full_page_writes is off: a crash can damage pages'
                    ELSE 'what was accepted is on disk' END,
               'set it to on in postgresql.conf, and reload'
          FROM (SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
                       current_setting('full_page_writes') AS full_page_writes) s
        UNION ALL
        SELECT 5, 'connections',
               CASE WHEN s.used >= 0.95 * s.room THEN 'problem' WHEN s.used >= 0.8 * s.room THEN 'warning' ELSE 'ok' END,
               format('%s of %s are taken', s.used, s.room),
               'raise max_connections, or lower database.pool_size of the servers'
          FROM (SELECT (SELECT count(*) FROM pg_stat_activity a WHERE a.backend_type = 'client backend') AS used,
                       current_setting('max_connections')::integer
                           - current_setting('superuser_reserved_connections')::integer AS room) s
        UNION ALL
        SELECT 6, 'transactions',
               CASE WHEN t.hours >= 24 OR t.age > 1500000000 THEN 'problem'
                    WHEN t.hours >= 1 OR t.age > 1000000000 THEN 'warning' ELSE 'ok' END,
               CASE WHEN t.hours >= 1
                    THEN format('process %s has one open since %s hours: deleted rows stay meanwhile', t.pid, t.hours)
                    WHEN t.age > 1000000000
                    THEN format('vacuum is behind by %s transactions: PostgreSQL stops at 2,100,000,000', t.age)
                    ELSE 'none is long, and vacuum follows' END,
               CASE WHEN t.hours >= 1
                    THEN format('SELECT pg_terminate_backend(%s), unless somebody needs that session', t.pid)
                    ELSE 'end old transactions and replication slots, then VACUUM as a superuser' END
          FROM (SELECT floor(extract(epoch FROM clock_timestamp() - o.xact_start) / 3600) AS hours, o.pid,
                       age(d.datfrozenxid) AS age
                  FROM pg_database d
                  LEFT JOIN LATERAL (SELECT a.pid, a.xact_start FROM pg_stat_activity a
                                      WHERE a.datid = d.oid AND a.backend_type = 'client backend'
                                        -- A backup takes its time, and it is not to be ended, unless it hangs. Nobody else has
                                        -- its name.
                                        AND NOT (a.application_name = 'postern backup'
                                                 AND a.xact_start > clock_timestamp() - interval '12 hours'
                                                 AND pg_has_role(a.usesysid, 'postern_backup', 'USAGE'))
                                      ORDER BY a.xact_start
                                      LIMIT 1) o ON true
                 WHERE d.datname = current_database()) t
        UNION ALL
        SELECT 7, 'WAL',
               CASE WHEN a.idles OR a.fails OR a.waits >= 60 OR s.lost IS NOT NULL THEN 'problem'
                    WHEN a.waits >= 10 OR s.behind IS NOT NULL THEN 'warning' ELSE 'ok' END,
               CASE WHEN a.idles THEN 'nothing archives it, though archive_mode is on: WAL stays, and fills the disk'
                    WHEN a.fails THEN 'archiving fails: WAL stays, and fills the disk'
                    WHEN a.waits >= 60 OR a.waits >= 10 AND s.lost IS NULL
                    THEN format('some has waited to be archived for %s minutes: WAL stays, and fills the disk', a.waits)
                    WHEN s.lost IS NOT NULL THEN format('replication slots lost what their readers need: %s', s.lost)
                    WHEN s.behind IS NOT NULL THEN format('replication slots without a reader hold WAL: %s', s.behind)
                    WHEN a.archives AND a.minutes >= 0 THEN format('it is archived, last %s minutes ago', a.minutes)
                    WHEN a.archives THEN 'it is archived once there is enough'
                    ELSE 'it is not archived' END,
               CASE WHEN a.idles
                    THEN 'set archive_command or archive_library, and reload; or set archive_mode to off, and restart PostgreSQL'
                    WHEN a.fails THEN 'PostgreSQL''s log says what archive_command said'
                    WHEN a.waits >= 60 OR a.waits >= 10 AND s.lost IS NULL
                    THEN 'archive_command hangs, or is too slow: see whether the place that it writes to answers'
                    WHEN s.lost IS NOT NULL THEN 'make those standbys anew, and drop the slots: pg_drop_replication_slot'
                    ELSE 'start those standbys, or drop the slots: pg_drop_replication_slot' END
          FROM (SELECT m.archives, m.archives AND m.means = '' AS idles,
                       -- After a clock that was ahead the times say nothing. PostgreSQL archives in the order of the names.
                       m.archives AND r.failed_count > 0
                           AND CASE WHEN r.archived_count = 0 THEN true
                                    WHEN greatest(r.last_failed_time, r.last_archived_time) <= clock_timestamp()
                                    THEN r.last_failed_time > r.last_archived_time
                                    ELSE r.last_failed_wal COLLATE "C" > r.last_archived_wal COLLATE "C" END AS fails,
                       -- A command that hangs is counted nowhere.
                       CASE WHEN m.archives
                            THEN (SELECT floor(extract(epoch FROM clock_timestamp() - min(f.modification)) / 60)
                                    FROM pg_ls_archive_statusdir() f
                                   WHERE f.name LIKE '%.ready') END AS waits,
                       floor(extract(epoch FROM clock_timestamp() - r.last_archived_time) / 60) AS minutes
                  FROM pg_stat_archiver r,
                       -- With `on` a standby leaves it to its primary.
                       (SELECT s.mode = 'always' OR s.mode = 'on' AND NOT pg_is_in_recovery() AS archives, s.means
                          FROM (SELECT current_setting('archive_mode') AS mode,
                                       current_setting('archive_command') || current_setting('archive_library') AS means) s) m) a,
               (SELECT string_agg(r.slot_name, ', ') FILTER (WHERE r.wal_status IN ('unreserved', 'lost')) AS lost,
                       string_agg(r.slot_name, ', ') FILTER (WHERE r.wal_status = 'extended' AND NOT r.active) AS behind
                  FROM pg_replication_slots r) s
        UNION ALL
        SELECT 8, 'master key change',
               CASE WHEN m.previous_id IS NULL THEN 'ok' ELSE 'warning' END,
               CASE WHEN m.previous_id IS NULL THEN 'none is under way' ELSE 'a change of the master key is under way' END,
               'run `postern master-key change` to its end, with the old key and the new one'
          FROM operator.master_key m
        UNION ALL
        SELECT 9, 'issuer keys',
               CASE WHEN k.keys = 0 THEN 'ok' WHEN k.lacking IS NOT NULL THEN 'problem'
                    WHEN k.ends < c.today + 2 THEN 'warning' ELSE 'ok' END,
               CASE WHEN k.keys = 0 THEN 'none yet: the first server makes them'
                    WHEN k.lacking IS NOT NULL THEN format('none issues tokens of type %s today', k.lacking)
                    ELSE format('for each token type one issues until %s at least', k.ends) END,
               'servers make keys that are due every hour: start one; its log says why it could not'
          FROM clock c,
               (SELECT sum(i.keys) AS keys, min(i.ends) AS ends,
                       string_agg(i.token_type::text, ', ') FILTER (WHERE NOT i.issues) AS lacking
                  FROM (SELECT t.token_type, count(k.issuer_key) AS keys, max(k.not_after) AS ends,
                               coalesce(bool_or(k.not_before <= c.today AND c.today < k.not_after), false) AS issues
                          FROM clock c, unnest(ARRAY[5, 1, 2]) AS t (token_type)
                          LEFT JOIN aas.issuer_keys k ON k.token_type = t.token_type
                         GROUP BY t.token_type) i) k
        UNION ALL
        SELECT 10, 'signing keys',
               CASE WHEN k.keys = 0 THEN 'ok' WHEN k.lacking IS NOT NULL OR k.lacks_certificate THEN 'problem'
                    WHEN k.uncertified IS NOT NULL OR k.ends < c.today + 7 THEN 'warning' ELSE 'ok' END,
               CASE WHEN k.keys = 0 THEN 'none yet: the first server makes them'
                    WHEN k.lacking IS NOT NULL THEN format('none of %s is valid today', k.lacking)
                    WHEN k.lacks_certificate
                    THEN 'none of the AS that is valid today has a certificate of the root: no credential can be signed'
                    WHEN k.uncertified IS NOT NULL
                    THEN format('one of the AS begins on %s and has no certificate of the root', k.uncertified)
                    ELSE format('AS, QS and homeserver have some until %s at least', k.ends) END,
               CASE WHEN k.lacks_certificate OR k.uncertified IS NOT NULL
                    THEN 'certify it with `postern root sign`, and give the certificate to operator.certify_signing_key'
                    ELSE 'servers make keys that are due every hour: start one; its log says why it could not' END
          FROM clock c,
               (SELECT sum(s.keys) AS keys, min(s.ends) AS ends, string_agg(s.name, ', ') FILTER (WHERE NOT s.valid) AS lacking,
                       bool_or(s.service = 'as' AND s.valid AND NOT s.certified) AS lacks_certificate,
                       min(s.uncertified) AS uncertified
                  FROM (SELECT n.service, n.name, count(k.public_key) AS keys, max(k.not_after) AS ends,
                               coalesce(bool_or(c.today BETWEEN k.not_before AND k.not_after), false) AS valid,
                               coalesce(bool_or(c.today BETWEEN k.not_before AND k.not_after
                                                AND (t.root_key IS NULL OR substr(k.certificate, 3, 32) = t.root_key)), false)
                                   AS certified,
                               min(k.not_before) FILTER (
                                   WHERE n.service = 'as' AND t.root_key IS NOT NULL
                                     AND k.not_before BETWEEN c.today AND c.today + 14
                                     AND substr(k.certificate, 3, 32) IS DISTINCT FROM t.root_key) AS uncertified
                          FROM clock c, auth.key_settings t,
                               (VALUES ('as', 'the AS'), ('qs', 'the QS'), ('federation', 'the homeserver')) AS n (service, name)
                          LEFT JOIN auth.signing_keys k ON k.service = n.service AND k.revoked IS NULL
                         GROUP BY n.service, n.name) s) k
        UNION ALL
        SELECT 11, 'gateway keys',
               CASE WHEN k.ends < c.today THEN 'problem' WHEN k.ends < c.today + 2 THEN 'warning' ELSE 'ok' END,
               CASE WHEN k.ends IS NULL THEN 'none yet: the first server makes them'
                    ELSE format('one is valid until %s', k.ends) END,
               'servers make keys that are due every hour: start one; its log says why it could not'
          FROM clock c, (SELECT max(k.not_after) AS ends FROM federation.gateway_keys k) k
        UNION ALL
        SELECT 12, 'upkeep',
               CASE WHEN s.home_domain IS NULL THEN 'ok' WHEN c.expiry - l.day > 3 THEN 'problem'
                    WHEN c.expiry - l.day > 1 THEN 'warning' ELSE 'ok' END,
               CASE WHEN w.day = 'epoch' THEN 'no server started it yet'
                    WHEN w.position IS NULL THEN format('the sweep of %s is finished', w.day)
                    ELSE format('the sweep of %s is under way', w.day) END,
               'start a server; if one runs, each batch fails: PostgreSQL''s log says why'
          FROM clock c, operator.settings s, qs.sweep w,
               -- A day that is still to come is of a clock that was ahead, and tells nothing.
               LATERAL (SELECT max(d.day) AS day
                          FROM (SELECT w.day UNION ALL SELECT m.applied FROM operator.schema_state m) d (day)
                         WHERE d.day <= c.today) l
        UNION ALL
        SELECT 13, 'neighbours',
               CASE WHEN n.out_of_tokens + n.refused + n.set_aside > 0 OR c.today - n.oldest > 1 THEN 'warning' ELSE 'ok' END,
               CASE WHEN n.waiting + n.set_aside = 0 THEN 'no delivery waits'
                    ELSE concat_ws('; ',
                        CASE WHEN n.waiting > 0
                             THEN format('deliveries to %s wait, some since %s days', n.waiting, c.today - n.oldest) END,
                        CASE WHEN n.out_of_tokens > 0 THEN format('%s give no more tokens', n.out_of_tokens) END,
                        CASE WHEN n.refused > 0 THEN format('%s deliveries are refused, or break their connections', n.refused) END,
                        CASE WHEN n.set_aside > 0 THEN format('%s deliveries were set aside', n.set_aside) END) END,
               concat_ws('; ', 'operator.neighbours() tells of each',
                   CASE WHEN n.out_of_tokens > 0 THEN 'ask their operators for a larger allowance' END,
                   CASE WHEN n.set_aside > 0 THEN 'operator.set_aside() says why, retry_set_aside() tries again' END)
          FROM clock c,
               (SELECT count(*) FILTER (WHERE n.queued > 0) AS waiting,
                       count(*) FILTER (WHERE n.state = 'out_of_tokens') AS out_of_tokens,
                       coalesce(sum(n.refused), 0) AS refused, coalesce(sum(n.set_aside), 0) AS set_aside,
                       min(n.oldest) AS oldest
                  FROM operator.neighbours() n
                 -- A standby has no unlogged tables.
                 WHERE current_setting('in_hot_standby') = 'off') n
        UNION ALL
        SELECT 14, 'standbys',
               CASE WHEN s.missing > 0 OR s.is_standby THEN 'problem' WHEN s.others IS NULL AND NOT s.lacks THEN 'ok' ELSE 'warning' END,
               CASE WHEN s.is_standby THEN 'this database is a standby itself, and takes no changes'
                    WHEN s.missing > 0
                    THEN format('commits hang: they wait for %s more standbys, so that nothing is accepted', s.missing)
                    WHEN s.others IS NOT NULL
                    THEN format('no commit waits for %s: if it is promoted, tokens that were spent last are good once more',
                                s.others)
                    WHEN s.lacks
                    THEN format('commits wait for %s of %s standbys, and %s stream: one that is away lacks what came since',
                                s.needed, s.members, s.number)
                    WHEN s.number = 0 THEN 'none streams from this database'
                    WHEN s.some_of IS NOT NULL THEN format('commits wait for %s of %s', s.needed, s.some_of)
                    ELSE format('commits wait for %s', s.all_of) END,
               CASE WHEN s.is_standby THEN 'name the primary in database.url; or promote it, if the primary is gone for good'
                    WHEN s.missing > 0
                    THEN 'start them again; to go on without, change synchronous_standby_names and reload'
                    WHEN s.others IS NULL
                    THEN 'start it again; of several, promote only the one that received most; else operator.begin_generation()'
                    ELSE 'synchronous_standby_names makes commits wait; after a promotion without that, operator.begin_generation()'
                    END
          FROM (SELECT operator.missing_standbys() AS missing, pg_is_in_recovery() AS is_standby,
                       count(s.waited_for) AS number, q.number AS needed, q.members,
                       string_agg(s.name, ', ') FILTER (WHERE s.waited_for = 'each commit') AS all_of,
                       string_agg(s.name, ', ') FILTER (WHERE s.waited_for = 'some commits') AS some_of,
                       string_agg(coalesce(s.name, '?'), ', ') FILTER (WHERE s.waited_for = 'no commit') AS others,
                       coalesce(q.members > q.number AND count(s.name) FILTER (WHERE s.waited_for = 'some commits') < q.members,
                                false) AS lacks
                  FROM operator.quorum() q
                  LEFT JOIN operator.standbys() s ON true
                 GROUP BY q.number, q.members) s
        UNION ALL
        SELECT 15, 'generation',
               CASE WHEN g.undecided = 'no' THEN 'ok' ELSE 'problem' END,
               CASE WHEN g.undecided IS NULL THEN 'the database is not whole: a restore did not come to its end'
                    WHEN g.undecided = 'timeline'
                    THEN 'the database was recovered or promoted: it may lack what came last, tokens that were spent among it'
                    WHEN g.undecided = 'recovered'
                    THEN 'the database was recovered up to an earlier moment, or promoted though commits had not waited for it: clients are ahead of it'
                    WHEN g.undecided = 'cluster' THEN 'the database was restored from a dump, and clients are ahead of it'
                    WHEN g.generation = 0 THEN 'the first: nothing was restored'
                    ELSE format('%s, since a restore', g.generation) END,
               CASE WHEN g.undecided IS NULL THEN 'restore into an empty database once more'
                    ELSE '`postern generation begin` (SELECT operator.begin_generation()); if nothing at all was lost, `postern generation keep` (operator.keep_generation())' END
          FROM clock c
          LEFT JOIN operator.current_generation() g ON true
        UNION ALL
        SELECT 16, 'backup',
               CASE WHEN b.days > 7 * b.warn_days THEN 'problem' WHEN b.days > b.warn_days OR b.days < -2 THEN 'warning' ELSE 'ok' END,
               CASE WHEN b.days < -2 THEN format('the last was noted by a clock that was ahead, on %s: nobody knows how old it is', b.day)
                    WHEN b.day IS NULL THEN format('none was made yet, %s days after the database', b.days)
                    ELSE format('the last was made on %s, %s days ago', b.day, b.days) END,
               CASE WHEN b.days < -2 THEN 'make one now: `postern backup`'
                    WHEN b.day IS NULL
                    THEN '`systemctl enable --now postern-backup.timer`, or a timer of yours with `postern backup`; after those of another tool, operator.note_backup()'
                    ELSE 'the log of what makes backups says why they fail (`journalctl -u postern-backup`)' END
          FROM (SELECT b.day, b.since, b.warn_days, c.today - coalesce(b.day, b.since) AS days
                  FROM clock c, operator.last_backup b) b
        UNION ALL
        SELECT 17, 'clock',
               CASE WHEN k.day > c.today + 2 THEN 'problem' WHEN c.today > c.expiry + 1 THEN 'warning' ELSE 'ok' END,
               CASE WHEN k.day > c.today + 2
                    THEN format('it is %s by the clock of the database server, and the database was in use on %s', c.today, k.day)
                    WHEN c.today > c.expiry + 1
                    THEN format('the clock of the database server, or a pause, led to %s: what is due to expire since %s goes in two days',
                                c.today, c.expiry)
                    ELSE format('it is %s (UTC)', c.today) END,
               CASE WHEN k.day > c.today + 2 THEN 'set the clock of the database server right'
                    ELSE 'set the clock of the database server right, unless it is: then there is nothing to do' END
          FROM clock c, operator.calendar k
    )
    SELECT i.item, i.verdict::operator.health_outcome, i.says, CASE WHEN i.verdict <> 'ok' THEN i.mend END
      FROM items i
     ORDER BY i.verdict::operator.health_outcome DESC, i.place
$$;
