-- auth.count_change: counts a reset or a change of name of an account in this month (UTC) (AS-8, AS-9).
--
--   user_id: which account; the caller has locked it
--   kind: reset or rename
--
-- Called by auth.end_identity and auth.rename_user, after auth.may_change.
CREATE OR REPLACE FUNCTION auth.count_change(user_id uuid, kind auth.account_change) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO auth.account_changes AS c (user_id, kind, month, changes)
    VALUES (count_change.user_id, count_change.kind, auth.month(now()), 1)
    ON CONFLICT ON CONSTRAINT account_changes_pkey DO UPDATE
       SET month = excluded.month, changes = CASE c.month WHEN excluded.month THEN c.changes + 1 ELSE 1 END
$$;
