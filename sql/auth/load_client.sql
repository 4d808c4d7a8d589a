-- auth.load_client: finds the user whose EID has this client, the EID with its founding and present transcripts, and the
-- operator's limits for it.
--
-- Returns one row, or none if the key is no client's.
-- Called by POST /as/credentials and POST /as/eid/commits before they validate; the function that they call then checks
-- again. Not LANGUAGE sql: that would be parsed and planned at each call.
CREATE OR REPLACE FUNCTION auth.load_client(client_key bytea)
RETURNS TABLE (
    name text, confirmed boolean, incarnation integer, founder bytea, founding bytea, epoch bigint, transcript bytea,
    eid bytea,
    max_clients integer, max_commits integer, commits_per_day integer, max_commit_bytes integer,
    max_history_bytes integer, max_leaf_bytes integer)
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT u.name, c.confirmed, i.incarnation, i.founder, i.founding, i.epoch, i.transcript, i.eid,
               s.max_clients, s.max_identity_commits, s.identity_commits_per_day, s.max_identity_commit_bytes,
               s.max_identity_history_bytes, s.max_identity_leaf_bytes
          FROM auth.clients c
          JOIN auth.users u USING (user_id)
          JOIN auth.incarnations i USING (user_id, incarnation),
               auth.settings s
         WHERE c.client_key = load_client.client_key;
END
$$;
