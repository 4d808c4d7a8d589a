-- operator.users: lists users by name, a page at a time: whether each is suspended, the number of its clients, and whether
-- it registered with a login at the identity provider.
--
--   after: name that the page begins after; as it is in the last row of the page before
--   page: users, at most
--
-- Columns of the result:
--
--   name: without @ and domain
--   suspended: whether the operator suspended the user
--   clients: number of clients
--   has_login: whether the user registered with a login at the identity provider
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.users(after text DEFAULT '', page integer DEFAULT 100)
RETURNS TABLE (name text, suspended boolean, clients bigint, has_login boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.name, u.suspended, (SELECT count(*) FROM auth.clients c WHERE c.user_id = u.user_id), u.subject IS NOT NULL
      FROM auth.users u
     WHERE u.name > users.after COLLATE "C"
     ORDER BY u.name
     LIMIT users.page
$$;
