-- auth.may_change: tells whether an account has a reset or a change of name left this month (UTC) (AS-8, AS-9).
--
--   user_id: which account; the caller has locked it
--   kind: reset or rename
--
-- Returns the answer; with false, allowance, the number in a month, and resets_in, the seconds until the next begins.
-- Called by auth.end_identity and auth.rename_user.
CREATE OR REPLACE FUNCTION auth.may_change(
    user_id uuid, kind auth.account_change, OUT may boolean, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT CASE may_change.kind WHEN 'reset' THEN s.resets_per_month ELSE s.renames_per_month END INTO allowance
      FROM auth.settings s;
    may := allowance > coalesce((SELECT c.changes FROM auth.account_changes c
                                  WHERE c.user_id = may_change.user_id AND c.kind = may_change.kind
                                    AND c.month = auth.month(now())), 0);
    resets_in := ceil(extract(epoch FROM date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month'
                                         - now() AT TIME ZONE 'UTC'))::integer;
END
$$;
