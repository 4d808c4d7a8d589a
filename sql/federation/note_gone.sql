-- federation.note_gone: notes that another homeserver says that addresses are gone (DS-10). One that lost its database
-- for a moment says so of all, so it has to say it again on a later day. What it said more than a week ago does not
-- count.
--
--   groups, addresses: digests of the addresses, and of their groups (32 bytes each)
--
-- Called by federation.settle_lane.
CREATE OR REPLACE FUNCTION federation.note_gone(groups bytea[], addresses bytea[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
BEGIN
    INSERT INTO federation.gone AS g (group_digest, address_digest, day, last_day)
    SELECT DISTINCT n.group_digest, n.address_digest, today, today
      FROM unnest(note_gone.groups, note_gone.addresses) AS n (group_digest, address_digest)
     ORDER BY 1, 2
    ON CONFLICT ON CONSTRAINT gone_pkey DO UPDATE
       SET day = CASE WHEN g.last_day < today - 7 THEN today ELSE least(g.day, today) END, last_day = today
     WHERE g.last_day <> today;
END
$$;
