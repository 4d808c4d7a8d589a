-- operator.wakeups: shows the state of this database's notifier (QS-9).
--
-- Returns one row:
--   preloaded: false means that postern is not in shared_preload_libraries, and every delivery notifies within its own
--     transaction
--   worker_pid: null means none yet; the next delivery starts one
--   pending: queues to be woken
--   overflowed: how often there were more than there is room for, so that every waiter was told to look again
--   sent: notifications since the notifier's memory was set up
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.wakeups()
RETURNS TABLE (preloaded boolean, worker_pid integer, pending integer, overflowed bigint, sent bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT w.preloaded, w.worker_pid, w.pending, w.overflowed, w.sent FROM postern.wakeups() w
$$;
