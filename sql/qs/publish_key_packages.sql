-- qs.publish_key_packages: replaces a stock of one client of a friendship (QS-6).
--
--   issuer_key, nonce: the token that pays
--   lookup: of the friendship token, 32 bytes
--   signer: Ed25519 key, verified by the caller
--   may_create: whether to make the friendship, owned by the signer, when there is none
--   stock_id: 16 bytes, chosen by the client
--   sealed_key: the stock's key, sealed under the friendship token
--   packages: sealed under the stock's key
--   expires: when the lifetime of each ends, in seconds since 1970
--   last_resort, last_resort_expires: the same for the last resort; null: none
--   ciphersuite: of all of them (RFC 9420 §17.1)
--
-- Returns published, with remaining: how many there are now without the last resort; token_spent; unknown_friendship:
-- also for another signer than its owner, and when it got another token at this moment; ciphersuite_forbidden: by the
-- operator; too_many_key_packages; too_many_stocks; expires_too_soon: one could not be handed out any more, with days:
-- those for which each has to be valid, today not counted.
-- Called by PUT /qs/key-packages.
CREATE OR REPLACE FUNCTION qs.publish_key_packages(
    issuer_key smallint, nonce bytea, lookup bytea, signer bytea, may_create boolean,
    stock_id bytea, sealed_key bytea, packages bytea[], expires bigint[],
    last_resort bytea, last_resort_expires bigint, ciphersuite integer DEFAULT 1,
    OUT outcome qs.publish_key_packages_outcome, OUT remaining integer, OUT days integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    dated CONSTANT date := operator.today();
    horizon CONSTANT date := qs.key_package_horizon();
    friendship bytea;
    limits record;
BEGIN
    IF NOT aas.spend_token('qs.publish_key_packages', publish_key_packages.issuer_key,
                           publish_key_packages.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM operator.settings s
                    WHERE publish_key_packages.ciphersuite = ANY (s.ciphersuites)) THEN
        outcome := 'ciphersuite_forbidden';
        RETURN;
    END IF;
    SELECT s.key_packages_per_stock, s.stocks_per_friendship INTO limits FROM qs.settings s;
    IF cardinality(packages) > limits.key_packages_per_stock THEN
        outcome := 'too_many_key_packages';
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM unnest(publish_key_packages.expires || last_resort_expires) AS e (seconds)
                WHERE (to_timestamp(e.seconds) AT TIME ZONE 'UTC')::date <= horizon) THEN
        outcome := 'expires_too_soon';
        days := horizon - today;
        RETURN;
    END IF;

    -- If two clients both publish first, the second waits here for the first.
    IF may_create THEN
        INSERT INTO qs.friendships AS f (friendship_id, lookup, owner_key, last_active)
        VALUES (uuid_send(gen_random_uuid()), publish_key_packages.lookup, signer, dated)
        ON CONFLICT ON CONSTRAINT friendships_lookup_key DO NOTHING;
    END IF;
    SELECT f.friendship_id INTO friendship
      FROM qs.friendships f
     WHERE f.lookup = publish_key_packages.lookup AND f.owner_key = signer
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_friendship';
        RETURN;
    END IF;
    IF (SELECT count(*) >= limits.stocks_per_friendship
          FROM qs.stocks s
         WHERE s.friendship_id = friendship AND s.stock_id <> publish_key_packages.stock_id) THEN
        outcome := 'too_many_stocks';
        RETURN;
    END IF;

    UPDATE qs.friendships f SET last_active = dated
     WHERE f.friendship_id = friendship AND f.last_active < dated;
    DELETE FROM qs.key_packages k
     WHERE k.friendship_id = friendship AND k.stock_id = publish_key_packages.stock_id;
    INSERT INTO qs.stocks AS s (friendship_id, stock_id, sealed_key, ciphersuite)
    VALUES (friendship, publish_key_packages.stock_id, publish_key_packages.sealed_key,
            publish_key_packages.ciphersuite)
    ON CONFLICT ON CONSTRAINT stocks_pkey DO UPDATE
       SET sealed_key = excluded.sealed_key, ciphersuite = excluded.ciphersuite;
    INSERT INTO qs.key_packages AS k (friendship_id, stock_id, number, last_resort, expires, sealed)
    SELECT friendship, publish_key_packages.stock_id, p.number, p.number = 0,
           (to_timestamp(p.expires) AT TIME ZONE 'UTC')::date, p.sealed
      FROM (SELECT n.number, n.expires, n.sealed
              FROM unnest(publish_key_packages.packages, publish_key_packages.expires)
                   WITH ORDINALITY AS n (sealed, expires, number)
             UNION ALL
            SELECT 0, last_resort_expires, publish_key_packages.last_resort) p
     WHERE p.sealed IS NOT NULL;
    remaining := cardinality(packages);
    outcome := 'published';
END
$$;
