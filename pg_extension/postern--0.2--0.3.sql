\echo Use "ALTER EXTENSION postern UPDATE" to load this file. \quit

-- The limits of deliveries are kept in memory, too.

DROP FUNCTION @extschema@.forget_prices(oid);
CREATE FUNCTION @extschema@.forget(table_oid oid)
RETURNS void
LANGUAGE c STRICT VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'forget_wrapper';
COMMENT ON FUNCTION @extschema@.forget(oid) IS
    'Makes every session read a table anew, what it keeps in memory of it, once the transaction is committed; for triggers of aas.prices and qs.settings';

REVOKE ALL ON FUNCTION @extschema@.forget(oid) FROM PUBLIC;
