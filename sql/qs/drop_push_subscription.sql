-- qs.drop_push_subscription: forgets a push subscription that its push service says is over (QS-10).
--
--   queue_id: 16 bytes
--   subscription: as it was when it was pushed to; a newer one stays
--
-- Returns dropped, none.
-- Called by the server that was told so.
CREATE OR REPLACE FUNCTION qs.drop_push_subscription(
    queue_id bytea, subscription bytea,
    OUT outcome qs.drop_push_subscription_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM qs.push_subscriptions s
     WHERE s.queue_id = drop_push_subscription.queue_id
       AND s.subscription = drop_push_subscription.subscription;
    outcome := CASE WHEN FOUND THEN 'dropped'::qs.drop_push_subscription_outcome ELSE 'none' END;
END
$$;
