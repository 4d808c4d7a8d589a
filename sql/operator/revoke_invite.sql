-- operator.revoke_invite: takes an invite back: nobody registers by it any more. For the user who made it, it counts until
-- it expires.
--
--   invite: one of operator.invites()
--
-- Returns false if there was nothing left of it.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.revoke_invite(invite uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE auth.invites i SET uses = 0 WHERE i.invite = revoke_invite.invite AND i.uses > 0;
    RETURN FOUND;
END
$$;
