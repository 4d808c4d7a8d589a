-- qs.drop_push_subscription: forgets a push subscription whose push service says that it is
-- over (QS-10).
--
-- subscription: as it was when it was pushed to; a newer one stays.
-- Returns dropped, or none. Called by the server that was told so.
CREATE OR REPLACE FUNCTION qs.drop_push_subscription(
    queue_id bytea, subscription bytea,
    OUT outcome qs.drop_push_subscription_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM qs.push_subscriptions s
     WHERE s.queue_id = drop_push_subscription.queue_id
       AND s.subscription = drop_push_subscription.subscription;
    outcome := CASE WHEN FOUND THEN 'dropped' ELSE 'none' END;
END
$$;
