-- operator.seal_anew: puts values that are sealed under the present master key into the place of those under the one
-- before. A value that changed meanwhile stays.
--
--   place, value_column: of operator.sealed_columns()
--   identities, sealed, anew: of each value its identity, itself, and its replacement
--
-- Called by `postern master-key change`.
CREATE OR REPLACE FUNCTION operator.seal_anew(
    place regclass, value_column text, identities bytea[], sealed bytea[], anew bytea[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    identity_column text;
BEGIN
    SELECT c.identity_column INTO STRICT identity_column
      FROM operator.sealed_columns() c
     WHERE c.place = seal_anew.place AND c.value_column = seal_anew.value_column;
    EXECUTE format(
        'UPDATE %3$s t SET %2$I = r.anew FROM unnest($1, $2, $3) r (identity, sealed, anew)
          WHERE %1$s = r.identity AND t.%2$I = r.sealed',
        CASE identity_column WHEN '' THEN '''''::bytea' ELSE format('t.%I', identity_column) END,
        seal_anew.value_column, seal_anew.place)
    USING seal_anew.identities, seal_anew.sealed, seal_anew.anew;
END
$$;
