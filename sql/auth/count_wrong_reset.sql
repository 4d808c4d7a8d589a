-- auth.count_wrong_reset: counts an attempt to reset an account with a wrong proof, and says whether its source may go on
-- (AS-8). An owner with the right proof is not limited: no flood keeps owners from their accounts.
--
--   sources: HMACs of the sender's network address, and of the networks that it is in, the narrowest first
--
-- Returns counted; source_limited, server_limited: no more attempts are taken in this hour from this address or its
-- network, or from all addresses together. With all of them: allowance, the number of attempts in an hour that counted
-- here, and resets_in, the seconds until the next hour begins.
-- Called by POST /as/account/end and POST /as/account/reset.
CREATE OR REPLACE FUNCTION auth.count_wrong_reset(
    sources bytea[], OUT outcome auth.count_wrong_reset_outcome, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    limits record;
    attempt record;
BEGIN
    SELECT s.reset_attempts_per_source, s.reset_attempts_per_hour, s.network_factor, s.new_sources_percent
      INTO limits
      FROM auth.settings s;
    SELECT * INTO attempt
      FROM operator.admit_attempt(
          'reset', count_wrong_reset.sources, limits.reset_attempts_per_source, limits.network_factor,
          limits.reset_attempts_per_hour, limits.new_sources_percent);
    allowance := attempt.allowance;
    resets_in := attempt.resets_in;
    outcome := coalesce(attempt.limited, 'counted')::auth.count_wrong_reset_outcome;
END
$$;
