-- federation.recover: gives a domain that took deliveries good standing: all its lanes are due, if it failed before, but for
-- those whose first delivery it refuses, or that breaks its connections: each has a pause of its own, which no other lane ends.
--
--   domain: another domain than the home domain
--
-- Called by federation.settle_lane, federation.compare_lane, federation.keep_tokens,
-- federation.note_refusal, federation.note_break and operator.retry_now.
CREATE OR REPLACE FUNCTION federation.recover(domain text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM federation.attempts a WHERE a.domain = recover.domain;
    -- Rows that others have at this moment follow by themselves.
    UPDATE federation.due d
       SET due = CASE WHEN d.holder IS NULL AND d.standing <> 'slow' AND d.refusals = 0 AND d.breaks = 0 THEN now() ELSE d.due END,
           standing = federation.standing(recover.domain)
     WHERE (d.domain, d.lane) IN (
           SELECT o.domain, o.lane
             FROM federation.due o
            WHERE o.domain = recover.domain AND o.standing IN ('slow', 'failing', 'stranger')
              FOR UPDATE SKIP LOCKED);
END
$$;
