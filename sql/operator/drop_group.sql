-- operator.drop_group: deletes a group with everything that is kept of it (DS-11). The server does not know its members,
-- so nothing tells them: their next message is refused, since there is no such group. What waits in their queues stays.
-- A member can found the group anew (`postern-client refound`).
--
--   group_id: as members see it (`postern-client groups --json`), and operator.largest_groups shows it
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.drop_group(group_id text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whole bytea;
BEGIN
    IF group_id IS NULL OR group_id !~ '^[A-Za-z0-9_-]+$' OR length(group_id) NOT BETWEEN 22 AND 360
       OR length(group_id) % 4 = 1 THEN
        RAISE EXCEPTION 'that is no group id' USING ERRCODE = 'invalid_parameter_value',
              HINT = 'Members see it in their clients; operator.largest_groups() lists some.';
    END IF;
    whole := decode(translate(group_id, '-_', '+/') || repeat('=', (4 - length(group_id) % 4) % 4), 'base64');
    DELETE FROM ds.groups g
     USING operator.settings s
     WHERE g.group_id = substr(whole, 1, 16)
       AND substr(whole, 17) = convert_to(s.home_domain, 'UTF8');
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such group here' USING HINT = 'A group of another domain is its operator''s.';
    END IF;
END
$$;
