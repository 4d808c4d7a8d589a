-- operator.largest_groups: lists the groups whose sealed state is largest. It grows with the members. A group's id leads to
-- nobody; its members see it in their clients. It looks at every group.
--
--   number: how many groups, 1000 at most
--
-- Columns of the result (days are UTC):
--
--   group_id: as members see it (`postern-client groups --json`), for operator.drop_group
--   bytes: of the sealed state
--   last_used: day of the last message
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.largest_groups(number integer DEFAULT 20)
RETURNS TABLE (group_id text, bytes bigint, last_used date)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF number IS NULL OR number NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'largest_groups takes 1 to 1000 groups' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN QUERY
        SELECT translate(encode(g.group_id || convert_to(s.home_domain, 'UTF8'), 'base64'), E'+/=\n', '-_'),
               (octet_length(g.roster) + octet_length(g.tree))::bigint, g.last_used
          FROM ds.groups g, operator.settings s
         ORDER BY 2 DESC, 1
         LIMIT number;
END
$$;
