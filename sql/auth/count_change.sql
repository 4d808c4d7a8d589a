-- auth.count_change: counts a reset or a change of name of an account, unless the month's (UTC) are used up (AS-8, AS-9).
--
--   user_id: which account; the caller has locked it
--   kind: reset or rename
--
-- Returns false if they are used up.
-- Called by auth.end_identity and auth.rename_user.
CREATE OR REPLACE FUNCTION auth.count_change(user_id uuid, kind auth.account_change) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_month CONSTANT integer := auth.month(now());
    allowance integer;
BEGIN
    SELECT CASE kind WHEN 'reset' THEN s.resets_per_month ELSE s.renames_per_month END INTO allowance
      FROM auth.settings s;
    INSERT INTO auth.account_changes AS c (user_id, kind, month, changes)
    SELECT count_change.user_id, count_change.kind, this_month, 1 WHERE allowance > 0
    ON CONFLICT ON CONSTRAINT account_changes_pkey DO UPDATE
       SET month = excluded.month,
           changes = CASE c.month WHEN excluded.month THEN c.changes + 1 ELSE 1 END
     WHERE c.month <> excluded.month OR c.changes < allowance;
    RETURN FOUND;
END
$$;
