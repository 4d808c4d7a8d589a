-- operator.accept_homeserver_keys: lets a domain come with keys that no known key endorsed, as after the loss of its
-- database: this server forgets the keys that it trusts, and pins those that it finds at its next look, which is due now.
-- Keys that are distrusted stay so.
--
--   domain: another domain than the home domain
--
-- Called by the operator, who asked the other operator.
CREATE OR REPLACE FUNCTION operator.accept_homeserver_keys(domain text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM federation.homeserver_keys k
     WHERE k.domain = accept_homeserver_keys.domain AND k.distrusted IS NULL;
    DELETE FROM federation.homeservers h WHERE h.domain = accept_homeserver_keys.domain;
    DELETE FROM federation.shown s WHERE s.domain = accept_homeserver_keys.domain;
    DELETE FROM federation.looks l WHERE l.domain = accept_homeserver_keys.domain;
END
$$;
