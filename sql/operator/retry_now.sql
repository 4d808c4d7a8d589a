-- operator.retry_now: makes what waits for a domain due, whatever the time of the next attempt is, and lets its issuer be
-- asked for tokens. Its homeserver, which may have moved, is looked at anew, however recent the last look is.
--
--   domain: another domain than the home domain
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.retry_now(domain text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM federation.recover(retry_now.domain);
    UPDATE federation.due d SET due = now() WHERE d.domain = retry_now.domain AND d.holder IS NULL;
    DELETE FROM federation.refills r WHERE r.domain = retry_now.domain;
    DELETE FROM federation.looks l WHERE l.domain = retry_now.domain;
END
$$;
