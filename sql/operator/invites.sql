-- operator.invites: lists the invites that have not expired: the registrations that are left, the last day (UTC), the
-- operator's note, and the user who made it, if none of the operators did. It tells no codes, and nobody who came by one.
--
-- Columns of the result (days are UTC):
--
--   invite: id, for operator.revoke_invite
--   uses: registrations that are left
--   expires: last day
--   note: as the operator gave it to operator.make_invites
--   made_by: user who made it; null: an operator did
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.invites()
RETURNS TABLE (invite uuid, uses integer, expires date, note text, made_by text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.invite, i.uses, i.expires, i.note, u.name
      FROM auth.invites i
      LEFT JOIN auth.users u ON u.user_id = i.made_by
     WHERE i.expires >= (now() AT TIME ZONE 'UTC')::date
     ORDER BY i.expires, u.name, i.note, i.invite
$$;
