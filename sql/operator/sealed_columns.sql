-- operator.sealed_columns: lists the columns whose values are sealed under the master key, by their trigger
-- operator.check_seal: table, column, the purpose for which servers seal the values, and the column with the value's
-- identity, empty if there is none.
--
-- Called by `postern master-key change`, operator.sealed_values, operator.seal_anew and operator.end_master_key_change.
CREATE OR REPLACE FUNCTION operator.sealed_columns()
RETURNS TABLE (place regclass, value_column text, purpose text, identity_column text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.tgrelid::regclass, a.words[1], a.words[2], a.words[3]
      FROM pg_trigger t,
           -- Each argument ends with a zero byte.
           LATERAL (SELECT string_to_array(encode(t.tgargs, 'escape'), '\000') AS words) a
     WHERE t.tgfoid = 'operator.check_seal()'::regprocedure
     ORDER BY t.tgrelid::regclass::text, a.words[1]
$$;
