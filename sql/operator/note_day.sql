-- operator.note_day: notes that somebody asked today, and tells the day (UTC) up to which things expire: two days after the
-- last but two on which somebody asked, and today at most. Where somebody asks every day, it is today. A clock that is ahead
-- for less than two nights moves it by two days at most, and takes that back when it is right again. After a time without a
-- server, in which nobody asked, it follows within two further days. A clock that is behind lets nothing expire:
-- operator.today goes on from the newest day until the clock was behind on three.
--
-- Called by functions by which things expire.
CREATE OR REPLACE FUNCTION operator.note_day() RETURNS date
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- A transaction that began before a clock was set goes by what it is now.
    today CONSTANT date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
BEGIN
    IF NOT EXISTS (SELECT FROM operator.days d WHERE d.day = today) OR EXISTS (SELECT FROM operator.days d WHERE d.day > today) THEN
        -- One at a time. Others that come meanwhile do not wait.
        PERFORM FROM operator.calendar c WHERE c.singleton FOR NO KEY UPDATE SKIP LOCKED;
    END IF;
    IF FOUND THEN
        -- A new database begins with three days, so that nothing waits at first.
        INSERT INTO operator.days (day)
        SELECT today - n.days
          FROM generate_series(0, CASE WHEN EXISTS (SELECT FROM operator.days) THEN 0 ELSE 2 END) AS n (days)
        ON CONFLICT ON CONSTRAINT days_pkey DO NOTHING;
        DELETE FROM operator.days d
         WHERE d.day > today
            OR d.day < (SELECT min(l.day)
                          FROM (SELECT o.day FROM operator.days o WHERE o.day <= today ORDER BY o.day DESC LIMIT 3) l);
        UPDATE operator.calendar c
           SET day = n.day
          FROM (SELECT least(today, min(d.day) + 2) AS day, count(*) AS days, max(d.day) AS last FROM operator.days d) n
         WHERE c.day < n.day OR c.day > n.day AND n.days = 3 AND n.last < c.day;
    END IF;
    -- Today is the third, whoever notes it.
    RETURN (SELECT least(today, min(l.day) + 2)
              FROM (SELECT d.day FROM operator.days d WHERE d.day < today ORDER BY d.day DESC LIMIT 2) l);
END
$$;
