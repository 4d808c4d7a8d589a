-- auth.load_profile_limits: finds the identity of a confirmed client (AS-4), for which its user's profile is signed, and
-- the operator's limits of profiles.
--
-- Returns one row, or none if the key is no such client's.
-- Called by PUT /as/profile before it validates; auth.put_profile then checks again. Not LANGUAGE sql: that would be
-- parsed and planned at each call.
CREATE OR REPLACE FUNCTION auth.load_profile_limits(client_key bytea)
RETURNS TABLE (
    incarnation integer, founding bytea, max_display_name_bytes integer, max_profile_text_bytes integer,
    max_sealed_profile_bytes integer, max_picture_bytes integer, max_picture_pixels integer)
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT i.incarnation, i.founding, s.max_display_name_bytes, s.max_profile_text_bytes,
               s.max_sealed_profile_bytes, s.max_picture_bytes, s.max_picture_pixels
          FROM auth.clients c
          JOIN auth.incarnations i USING (user_id, incarnation),
               auth.settings s
         WHERE c.client_key = load_profile_limits.client_key AND c.confirmed;
END
$$;
