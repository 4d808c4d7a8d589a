-- operator.wrong_proofs: lists accounts for which second proofs did not verify lately (AS-8, AS-9): somebody without the
-- recovery key tried to reset, rename or delete them, or their owner mistyped it. Nobody is locked out by it.
--
-- user_name: without @domain; proofs: in the last hour in which there were any, of the last day
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.wrong_proofs() RETURNS TABLE (user_name text, proofs integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.name, w.proofs
      FROM auth.wrong_proofs w
      JOIN auth.users u ON sha256(convert_to(u.name, 'UTF8')) = w.name_digest
     ORDER BY w.proofs DESC, u.name
$$;
