-- rendezvous.join_rendezvous: makes a key the guest of a rendezvous, after counting the attempt (AS-7). A rendezvous has
-- one guest in its life: somebody who guesses numbers or codes tries each once.
--
--   sources: HMACs of the sender's network address, and of the networks that it is in, the narrowest first
--   number: of the rendezvous
--   guest_key: Ed25519, of the signer
--   signature: digest of the request's signature, verified by the caller
--   wake: text by which servers know the rendezvous in notifications
--
-- Returns joined, to the guest also again; source_limited, server_limited: no more attempts are taken in this hour from
-- this address, or from all addresses together, with allowance, the number of attempts in an hour that counted here, and
-- resets_in, the seconds until the next hour begins; signature_used; unknown; closed: another key came before, or this one
-- is the owner's, or too many requests were made.
-- Called by POST /rendezvous/{number}/join.
CREATE OR REPLACE FUNCTION rendezvous.join_rendezvous(
    sources bytea[], number integer, guest_key bytea, signature bytea, wake text,
    OUT outcome rendezvous.join_rendezvous_outcome, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    settings record;
    attempt record;
    meeting record;
BEGIN
    IF aas.is_signature_used(signature) THEN
        outcome := 'signature_used';
        RETURN;
    END IF;
    SELECT s.* INTO settings FROM rendezvous.settings s;
    SELECT * INTO attempt
      FROM operator.admit_attempt(
          'rendezvous', join_rendezvous.sources, settings.attempts_per_source, settings.network_factor,
          settings.attempts_per_hour, settings.new_sources_percent);
    resets_in := attempt.resets_in;
    IF attempt.limited IS NOT NULL THEN
        outcome := attempt.limited::rendezvous.join_rendezvous_outcome;
        allowance := attempt.allowance;
        RETURN;
    END IF;
    SELECT m.owner_key, m.guest_key, m.requests INTO meeting
      FROM rendezvous.meetings m
     WHERE m.number = join_rendezvous.number AND m.expires >= rendezvous.this_minute()
       FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown';
    ELSIF meeting.owner_key = join_rendezvous.guest_key OR meeting.guest_key <> join_rendezvous.guest_key
          OR meeting.requests >= settings.max_requests THEN
        outcome := 'closed';
    ELSIF NOT aas.use_signature(signature) THEN
        outcome := 'signature_used';
    ELSE
        UPDATE rendezvous.meetings m
           SET guest_key = join_rendezvous.guest_key, requests = m.requests + 1,
               expires = CASE WHEN m.guest_key IS NULL THEN rendezvous.this_minute() + settings.minutes
                              ELSE m.expires END
         WHERE m.number = join_rendezvous.number;
        PERFORM pg_notify('postern_rendezvous', wake);
        outcome := 'joined';
    END IF;
END
$$;
