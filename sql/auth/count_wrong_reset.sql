-- auth.count_wrong_reset: counts an attempt to reset an account with a wrong proof, and says whether its source may go on
-- (AS-8). Who has the right proof is not limited: no flood keeps owners from their accounts.
--
--   source: HMAC of the sender's network address (32 bytes)
--
-- Returns counted; source_limited, server_limited: no more attempts are taken in this hour from this address, or from all
-- addresses together. With all of them: allowance, the number of attempts in an hour that counted here, and resets_in, the
-- seconds until the next hour begins.
-- Called by POST /as/account/end and POST /as/account/reset.
CREATE OR REPLACE FUNCTION auth.count_wrong_reset(
    source bytea, OUT outcome auth.count_wrong_reset_outcome, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    limits record;
    attempt record;
BEGIN
    SELECT s.reset_attempts_per_source, s.reset_attempts_per_hour INTO limits FROM auth.settings s;
    SELECT * INTO attempt
      FROM operator.admit_attempt(
          'reset', count_wrong_reset.source, limits.reset_attempts_per_source, limits.reset_attempts_per_hour);
    allowance := attempt.allowance;
    resets_in := attempt.resets_in;
    outcome := coalesce(attempt.limited, 'counted')::auth.count_wrong_reset_outcome;
END
$$;
