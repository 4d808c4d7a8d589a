-- auth.admit_registration: counts an attempt to register, and says whether it may go on (AS-1). This comes before
-- anything dear is done for a stranger, and tells nothing about existing users.
--
--   sources: HMACs of the sender's network address, and of the networks that it is in, the narrowest first
--   client_key: Ed25519 key that signed the request, verified by the caller; null if none did: whether a key is a
--     client's is told to nobody else
--   invite: digest of the invite's code; null without one
--
-- Returns admitted, with max_leaf_bytes, the limit of the first client's leaf, and is_known: the key is a client's, and
-- needs no invite and no ID token, since its request makes no account, and may repeat one whose answer was lost;
-- source_limited, server_limited: no more attempts are taken in this hour from this address or its network, or from all
-- addresses together; not_admitted: the policy asks for an invite, and this is none that is good. With all of them:
-- allowance, the number of attempts in an hour that counted here, resets_in, the seconds until the next hour begins, and
-- policy, as auth.settings has it. Whether the name is free is told by auth.register_user alone, to a request that is
-- valid otherwise.
-- Called by POST /as/users.
CREATE OR REPLACE FUNCTION auth.admit_registration(
    sources bytea[], client_key bytea, invite bytea,
    OUT outcome auth.admit_registration_outcome, OUT allowance integer, OUT resets_in integer,
    OUT max_leaf_bytes integer, OUT policy text, OUT is_known boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    limits record;
    attempt record;
    is_invited boolean;
BEGIN
    SELECT s.registrations_per_source, s.registrations_per_hour, s.network_factor, s.new_sources_percent,
           s.max_identity_leaf_bytes, s.registration_policy
      INTO limits
      FROM auth.settings s;
    max_leaf_bytes := limits.max_identity_leaf_bytes;
    policy := limits.registration_policy;
    SELECT * INTO attempt
      FROM operator.admit_attempt(
          'registration', admit_registration.sources, limits.registrations_per_source, limits.network_factor,
          limits.registrations_per_hour, limits.new_sources_percent);
    allowance := attempt.allowance;
    resets_in := attempt.resets_in;
    IF attempt.limited IS NOT NULL THEN
        outcome := attempt.limited::auth.admit_registration_outcome;
        RETURN;
    END IF;
    is_invited := EXISTS (SELECT FROM auth.invites i
                           WHERE i.digest = admit_registration.invite AND i.uses > 0
                             AND i.expires >= (now() AT TIME ZONE 'UTC')::date);
    -- A request that is repeated while the first one uses the invite up is known by now.
    is_known := EXISTS (SELECT FROM auth.clients c WHERE c.client_key = admit_registration.client_key);
    IF policy = 'invite' AND NOT is_invited AND NOT is_known THEN
        outcome := 'not_admitted';
    ELSE
        outcome := 'admitted';
    END IF;
END
$$;
