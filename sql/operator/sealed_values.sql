-- operator.sealed_values: lists a column's next values that are not sealed under the present master key, in the order of
-- their identities.
--
--   place, value_column: of operator.sealed_columns()
--   after: identity after which they begin; null: at the first
--   number: of rows to look at, at most
--
-- Returns a row for each of the next rows with a value: identity, and the value; null if it is under the present key.
-- Called by `postern master-key change`.
CREATE OR REPLACE FUNCTION operator.sealed_values(place regclass, value_column text, after bytea, number integer)
RETURNS TABLE (identity bytea, value bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    identity_column text;
BEGIN
    SELECT c.identity_column INTO STRICT identity_column
      FROM operator.sealed_columns() c
     WHERE c.place = sealed_values.place AND c.value_column = sealed_values.value_column;
    RETURN QUERY EXECUTE format(
        'SELECT r.identity, CASE WHEN substr(r.value, 1, 8) <> m.key_id THEN r.value END
           FROM (SELECT %1$s AS identity, t.%2$I AS value FROM %3$s t
                  WHERE t.%2$I IS NOT NULL AND ($1 IS NULL OR %1$s > $1) ORDER BY %1$s LIMIT $2) r,
                operator.master_key m
          ORDER BY r.identity',
        CASE identity_column WHEN '' THEN '''''::bytea' ELSE format('t.%I', identity_column) END,
        sealed_values.value_column, sealed_values.place)
    USING sealed_values.after, sealed_values.number;
END
$$;
