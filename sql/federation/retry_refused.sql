-- federation.retry_refused: puts some deliveries that were refused, too large for a homeserver or a proxy before it, or broke
-- their connections, into the outbox again, when they are due (federation.is_retried): for a single attempt, those of a lane
-- in a transaction.
--
-- Returns whether there may be more.
-- Called by each server process hourly, until there are no more.
CREATE OR REPLACE FUNCTION federation.retry_refused() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    refused record;
    batch CONSTANT bigint := 100::bigint;
BEGIN
    SELECT a.domain::text AS domain, a.lane INTO refused
      FROM federation.set_aside a
     WHERE federation.is_retried(a.reason, a.day, a.retried)
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM federation.put_back(refused.domain, refused.lane, batch, true);
    RETURN true;
END
$$;
