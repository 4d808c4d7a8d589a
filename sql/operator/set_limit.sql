-- operator.set_limit: changes a number in a service's settings. A value that a constraint forbids is an error with the
-- constraint, and the reason for it if it has a comment.
--
--   settings: the table, of one row
--   name: the column
--   value: the new number
--
-- Called by operator.set_queue_limit, operator.set_group_limit, operator.set_rendezvous_limit, operator.set_user_limit and
-- operator.set_federation_limit, which check the name, and by operator.set_new_user_allowance,
-- operator.set_new_homeserver_allowance and operator.set_refusals_per_hour.
CREATE OR REPLACE FUNCTION operator.set_limit(settings regclass, name text, value integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    violated text;
BEGIN
    EXECUTE format('UPDATE %s SET %I = $1', settings, name) USING value;
EXCEPTION WHEN check_violation OR not_null_violation THEN
    GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
    RAISE EXCEPTION '% cannot be %', name, coalesce(value::text, 'null')
        USING ERRCODE = 'check_violation',
              HINT = coalesce((SELECT concat_ws(': ', obj_description(c.oid, 'pg_constraint'), pg_get_constraintdef(c.oid))
                                 FROM pg_constraint c
                                WHERE c.conrelid = settings AND c.conname = violated), 'It has to be a number.');
END
$$;
