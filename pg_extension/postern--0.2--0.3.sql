\echo Use "ALTER EXTENSION postern UPDATE" to load this file. \quit

-- The price list and the limits of deliveries are kept in memory (AAS-5, QS-2). A version 0.2 had a function for the
-- trigger of the price list to call.

DROP FUNCTION IF EXISTS @extschema@.forget_prices(oid);
CREATE FUNCTION @extschema@.forget()
RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'forget_wrapper';
COMMENT ON FUNCTION @extschema@.forget() IS
    'Trigger of aas.prices and qs.settings: every session reads the table, which it keeps in memory, anew once the transaction is committed';

REVOKE ALL ON FUNCTION @extschema@.forget() FROM PUBLIC;
