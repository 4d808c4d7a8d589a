-- federation.neighbour_days: tells for how many days (UTC) a homeserver has been a neighbour: since it took a delivery, or
-- for ever if the operator allowed it. That it asks for something shows nothing: any name can.
--
--   domain: another domain than the home domain
--
-- Returns 0 to 10; 0: it took none before today.
-- Called by aas.take.
CREATE OR REPLACE FUNCTION federation.neighbour_days(domain text) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM federation.rules r
                              WHERE r.domain = neighbour_days.domain AND r.rule = 'allowed')
                THEN 10
                ELSE coalesce((SELECT least(greatest(operator.today() - n.first_success, 0), 10)
                                 FROM federation.neighbours n
                                WHERE n.domain = neighbour_days.domain), 0) END
$$;
