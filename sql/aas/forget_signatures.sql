-- aas.forget_signatures: forgets the signatures that are stale, whatever the clocks of servers: those that were used
-- neither in this span of ten minutes nor in the one before.
--
-- Called by each server process every ten minutes.
CREATE OR REPLACE FUNCTION aas.forget_signatures() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM aas.used_signatures u
     USING (SELECT extract(epoch FROM now())::bigint / 600 AS number) AS now
     WHERE u.span NOT IN (now.number % 6, (now.number + 5) % 6)
$$;
