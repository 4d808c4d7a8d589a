\echo Use "ALTER EXTENSION postern UPDATE" to load this file. \quit

-- Deliveries tell whom to push (QS-10).

DROP FUNCTION @extschema@.deliver(text, bytea, bytea[], smallint[], bytea[]);
CREATE FUNCTION @extschema@.deliver(
    domain text, group_id bytea, addresses bytea[], parts smallint[], payloads bytea[], urgencies smallint[])
RETURNS smallint[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'deliver_wrapper';
COMMENT ON FUNCTION @extschema@.deliver(text, bytea, bytea[], smallint[], bytea[], smallint[]) IS
    'Delivers payloads[parts[i]], of urgency urgencies[parts[i]] (0 = very-low to 3 = high), to the queue behind addresses[i]; returns nothing if all were delivered, else for each address 0 = delivered, 1 = gone (unknown, revoked, its queue deleted, or another group''s), 2 = no room at present. With a group_id only group queues, to whose addresses (domain, group_id) is bound on first use unless they are last_resort; without one only contact queues. Addresses of deleted queues are dropped. At most one call in a transaction: it locks the queues in order';

CREATE FUNCTION @extschema@.take_pushes()
RETURNS bytea[]
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'take_pushes_wrapper';
COMMENT ON FUNCTION @extschema@.take_pushes() IS
    'The pushes that the session''s last delivery makes due, for the server to send after the transaction: urgency, queue id, key and sealed subscription of each; null when there are none';

REVOKE ALL ON FUNCTION
    @extschema@.deliver(text, bytea, bytea[], smallint[], bytea[], smallint[]),
    @extschema@.take_pushes()
FROM PUBLIC;
