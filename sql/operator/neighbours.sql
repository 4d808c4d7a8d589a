-- operator.neighbours: lists the domains that something waits for, or that this server dealt with: the rule that the
-- operator made for each (null: none), its state (idle: nothing waits; delivering; slow: it takes long; failing: it does
-- not answer; out_of_tokens: its issuer gives no more at present; blocked: this server does not deal with it), the day
-- (UTC) of the last delivery that it took, the number and bytes of the deliveries that wait, the day of the oldest one,
-- the seconds until the next attempt, the reason why the last one failed, the deliveries that were set aside, the tokens
-- in the wallet, the day on which the numbering of one of its lanes began anew last, as after a restore of either
-- database, and the deliveries that it refuses, or that break their connections, while it takes others.
--
-- Columns of the result (days are UTC):
--
--   domain: another domain
--   rule: `allowed` or `blocked`, as the operator said; null: neither
--   state: as above
--   last_success: day of the last delivery that it took
--   queued: deliveries that wait
--   queued_bytes: their bytes
--   oldest: day of the oldest of them
--   next_try_seconds: seconds until the next attempt at one of its lanes; 0: it is due, or an attempt is under way at each; null:
--     nothing waits, or this server does not deal with it
--   reason: why the last attempt failed
--   set_aside: deliveries that were set aside
--   tokens: tokens of the domain at hand
--   renewed: day on which the numbering of one of its lanes began anew last
--   refused: deliveries that it refuses at present, or that break their connections, while it takes others: each holds its
--     lane up until it is set aside
--
-- Called by the operator, by monitoring, and by operator.health and operator.figures.
CREATE OR REPLACE FUNCTION operator.neighbours()
RETURNS TABLE (
    domain text, rule text, state text, last_success date, queued bigint, queued_bytes bigint, oldest date,
    next_try_seconds integer, reason text, set_aside bigint, tokens bigint, renewed date, refused bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH lanes AS (
        SELECT l.domain, sum(l.waiting) AS waiting, sum(l.waiting_bytes) AS bytes,
               max(l.renewed) AS renewed,
               min((SELECT o.day FROM federation.outbox o
                     WHERE o.domain = l.domain AND o.lane = l.lane ORDER BY o.number LIMIT 1)) AS oldest
          FROM federation.outgoing_lanes l
         GROUP BY l.domain
    )
    SELECT d.domain, r.rule,
           CASE WHEN NOT federation.is_allowed(d.domain) THEN 'blocked'
                WHEN a.state <> 'slow' OR a.state = 'slow' AND l.waiting > 0 THEN a.state
                WHEN l.waiting > 0 THEN 'delivering'
                ELSE 'idle' END,
           t.last_success, coalesce(l.waiting, 0)::bigint, coalesce(l.bytes, 0)::bigint, l.oldest,
           CASE WHEN l.waiting > 0 AND federation.is_allowed(d.domain)
                THEN greatest(0, ceil(extract(epoch FROM coalesce((SELECT min(w.due)
                                                                     FROM federation.due w
                                                                    WHERE w.domain = d.domain AND w.holder IS NULL),
                                                                  now()) - now())))::integer END,
           a.reason,
           (SELECT count(*) FROM federation.set_aside s WHERE s.domain = d.domain),
           (SELECT count(*) FROM federation.tokens t WHERE t.domain = d.domain),
           l.renewed,
           (SELECT count(*) FROM federation.due q WHERE q.domain = d.domain AND (q.refusals > 0 OR q.breaks > 0))
      FROM (SELECT h.domain FROM federation.homeservers h
            UNION SELECT l.domain FROM federation.outgoing_lanes l
            UNION SELECT n.domain FROM federation.neighbours n
            UNION SELECT i.domain FROM federation.incoming_lanes i
            UNION SELECT s.domain FROM federation.set_aside s
            UNION SELECT r.domain FROM federation.rules r) AS d (domain)
      LEFT JOIN lanes l ON l.domain = d.domain
      LEFT JOIN federation.neighbours t ON t.domain = d.domain
      LEFT JOIN federation.rules r ON r.domain = d.domain
      LEFT JOIN federation.attempts a ON a.domain = d.domain
     ORDER BY d.domain
$$;
