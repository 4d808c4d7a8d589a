-- federation.choose_description: chooses the description of another domain's homeserver that people here are shown: all of
-- them the same on one day (UTC), although that homeserver says something else meanwhile. Else it could make keys for
-- one of them, and know by these which requests are that one's. One that asks for a fresh one, because the keys are
-- gone, moves all on to the latest description, and few do in a day.
--
--   domain: another domain than the home domain
--   fresh: whether the description that was shown does not serve any more
--
-- Returns the description; null: there is none that has not expired and is not of a time to come, or it has changed too often
-- today.
-- Called by GET /homeservers/{domain}, after a look if one was due.
CREATE OR REPLACE FUNCTION federation.choose_description(domain text, fresh boolean) RETURNS bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    seconds CONSTANT bigint := floor(extract(epoch FROM now()))::bigint;
    latest federation.homeservers;
    shown federation.shown;
    early boolean;
BEGIN
    SELECT * INTO latest
      FROM federation.homeservers h
     WHERE h.domain = choose_description.domain AND h.expires >= seconds AND NOT federation.is_of_the_future(h.issued);
    IF latest.domain IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO federation.shown (domain, day, description, content, issued, expires)
    VALUES (latest.domain, today, latest.description, latest.content, latest.issued, latest.expires)
    ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT shown FROM federation.shown s WHERE s.domain = choose_description.domain FOR UPDATE;
    early := federation.is_of_the_future(shown.issued);
    IF shown.day = today AND shown.content <> latest.content AND NOT early THEN
        IF shown.expires >= seconds AND NOT choose_description.fresh THEN
            RETURN shown.description;
        ELSIF shown.changes >= (SELECT s.description_changes FROM federation.settings s) THEN
            RETURN CASE WHEN shown.expires >= seconds THEN shown.description END;
        END IF;
    END IF;
    IF shown.day <> today OR shown.content <> latest.content OR shown.expires < latest.expires OR early THEN
        UPDATE federation.shown s
           SET (day, description, content, issued, expires, changes)
             = ROW(today, latest.description, latest.content, latest.issued, latest.expires,
                   CASE WHEN s.day <> today THEN 0 WHEN s.content <> latest.content THEN s.changes + 1 ELSE s.changes END)
         WHERE s.domain = choose_description.domain;
    END IF;
    RETURN latest.description;
END
$$;
