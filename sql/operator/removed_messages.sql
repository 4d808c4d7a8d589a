-- operator.removed_messages: counts what was removed unread, per day (UTC): inactive queues and the messages that went
-- with them, messages that waited too long, and messages that the operator removed (QS-8).
--
-- Columns of the result (days are UTC):
--
--   day: day on which they were removed
--   inactive_queues: queues that no owner asked for
--   their_messages: messages that went with them
--   expired_messages: messages that waited too long
--   purged_messages: messages that the operator removed
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.removed_messages()
RETURNS TABLE (day date, inactive_queues bigint, their_messages bigint, expired_messages bigint, purged_messages bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.day, r.inactive_queues, r.their_messages, r.expired_messages, r.purged_messages
      FROM qs.removed r
     ORDER BY r.day DESC
$$;
