-- qs.fetch_key_packages: hands out one KeyPackage of each client of a friendship that has some of a ciphersuite, for
-- its token (QS-6). A KeyPackage that is handed out is gone, except for a last resort, which is handed out when a stock
-- has no other. One that would expire before all members have read of its Add is not handed out
-- (qs.key_package_horizon).
--
--   issuer_key, nonce: the token that pays
--   lookup: of the friendship token, 32 bytes
--   ciphersuite: of the group that they are for (RFC 9420 §17.1)
--
-- Returns fetched, and one element per stock in each array: its stock_id, its key as it was sealed under the friendship
-- token, the package as it was sealed under that key, and whether it is the last resort; or with empty arrays
-- token_spent; ciphersuite_forbidden: by the operator, so nobody could be added with them; unknown_friendship.
-- Called by POST /qs/key-packages/fetch.
CREATE OR REPLACE FUNCTION qs.fetch_key_packages(
    issuer_key smallint, nonce bytea, lookup bytea, ciphersuite integer DEFAULT 1,
    OUT outcome qs.fetch_key_packages_outcome, OUT stock_ids bytea[], OUT sealed_keys bytea[], OUT packages bytea[],
    OUT last_resorts boolean[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    horizon CONSTANT date := qs.key_package_horizon();
    friendship bytea;
    stock record;
    taken record;
BEGIN
    stock_ids := '{}'; sealed_keys := '{}'; packages := '{}'; last_resorts := '{}';
    IF NOT aas.spend_token('qs.fetch_key_packages', fetch_key_packages.issuer_key,
                           fetch_key_packages.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM operator.settings s
                    WHERE fetch_key_packages.ciphersuite = ANY (s.ciphersuites)) THEN
        outcome := 'ciphersuite_forbidden';
        RETURN;
    END IF;

    -- Fetches share the lock; publications and rotations wait for it. So the keys read next are
    -- those of the packages read after.
    SELECT f.friendship_id INTO friendship
      FROM qs.friendships f
     WHERE f.lookup = fetch_key_packages.lookup
       FOR SHARE;
    IF NOT FOUND THEN
        outcome := 'unknown_friendship';
        RETURN;
    END IF;
    FOR stock IN
        SELECT s.stock_id, s.sealed_key FROM qs.stocks s
         WHERE s.friendship_id = friendship AND s.ciphersuite = fetch_key_packages.ciphersuite
         ORDER BY s.stock_id
    LOOP
        -- A package that another fetch is taking at this moment is as good as taken: nobody waits.
        SELECT k.number, k.sealed, k.last_resort INTO taken
          FROM qs.key_packages k
         WHERE k.friendship_id = friendship AND k.stock_id = stock.stock_id
           AND NOT k.last_resort AND k.expires > horizon
         ORDER BY k.number
         LIMIT 1
           FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            DELETE FROM qs.key_packages k
             WHERE k.friendship_id = friendship AND k.stock_id = stock.stock_id
               AND k.number = taken.number;
        ELSE
            SELECT k.number, k.sealed, k.last_resort INTO taken
              FROM qs.key_packages k
             WHERE k.friendship_id = friendship AND k.stock_id = stock.stock_id
               AND k.last_resort AND k.expires > horizon;
        END IF;
        IF FOUND THEN
            stock_ids := stock_ids || stock.stock_id;
            sealed_keys := sealed_keys || stock.sealed_key;
            packages := packages || taken.sealed;
            last_resorts := last_resorts || taken.last_resort;
        END IF;
    END LOOP;
    outcome := 'fetched';
END
$$;
