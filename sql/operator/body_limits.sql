-- operator.body_limits: lists the limits of what comes in requests' bodies of any size (server/src/routes.rs): each is
-- worth as much only as servers let bodies through.
--
-- Called by each server process at its start and every few minutes, and by `postern check`.
CREATE OR REPLACE FUNCTION operator.body_limits() RETURNS TABLE (name text, bytes bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.name, l.bytes
      FROM ds.settings d, auth.settings a,
           LATERAL (VALUES ('max_commit_bytes', d.max_commit_bytes::bigint),
                           ('max_message_bytes', d.max_message_bytes),
                           ('max_identity_commit_bytes', a.max_identity_commit_bytes)) AS l (name, bytes)
$$;
