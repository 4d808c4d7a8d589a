-- auth.admit_reset: counts an attempt to reset an account, says whether it may go on (AS-8), and finds what its owner's
-- second proof is verified with. This comes before anything dear is done for a stranger. Registrations are counted apart: a flood of them
-- keeps nobody from an account.
--
--   source: HMAC of the sender's network address (32 bytes)
--   name: the part before @
--
-- Returns admitted, with the account's recovery key, null if there is no such account; its login, null also if it has none
-- or the policy of registration is not oidc; the number and the last transcript
-- of its last incarnation that ended, null if none did; and max_leaf_bytes, the limit of the first client's leaf.
-- source_limited, server_limited: no more attempts are taken in this hour from this address, or from all addresses
-- together. With all of them: allowance, the number of attempts in an hour that counted here, and resets_in, the seconds
-- until the next hour begins.
-- Called by POST /as/account/end and POST /as/account/reset.
CREATE OR REPLACE FUNCTION auth.admit_reset(
    source bytea, name text,
    OUT outcome auth.admit_reset_outcome, OUT allowance integer, OUT resets_in integer, OUT max_leaf_bytes integer,
    OUT recovery_key bytea, OUT login bytea, OUT incarnation integer, OUT transcript bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    limits record;
    attempt record;
BEGIN
    SELECT s.reset_attempts_per_source, s.reset_attempts_per_hour, s.max_identity_leaf_bytes, s.registration_policy
      INTO limits
      FROM auth.settings s;
    max_leaf_bytes := limits.max_identity_leaf_bytes;
    SELECT * INTO attempt
      FROM operator.admit_attempt(
          'reset', admit_reset.source, limits.reset_attempts_per_source, limits.reset_attempts_per_hour);
    allowance := attempt.allowance;
    resets_in := attempt.resets_in;
    IF attempt.limited IS NOT NULL THEN
        outcome := attempt.limited::auth.admit_reset_outcome;
        RETURN;
    END IF;
    outcome := 'admitted';
    SELECT u.recovery_key, CASE WHEN limits.registration_policy = 'oidc' THEN u.subject END, i.incarnation, i.transcript
      INTO recovery_key, login, incarnation, transcript
      FROM auth.users u
      LEFT JOIN auth.incarnations i ON i.user_id = u.user_id AND i.eid IS NULL
     WHERE u.name = admit_reset.name
     ORDER BY i.incarnation DESC
     LIMIT 1;
END
$$;
