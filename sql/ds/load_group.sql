-- ds.load_group: returns the sealed state that a message needs (the tree for a commit or proposal, the roster for an
-- application message; DS-9), and the operator's rules for groups, so that these hold at once; message_days is the time
-- for which an Add may wait for its readers, and outbox_days that for which it may wait before, until another domain's
-- homeserver takes it.
--
--   issuer_key, nonce: the token that is to pay, or null
--   group_id: 16 bytes
--   with_tree: whether to return the tree and not the roster
--
-- Returns one row, or none if there is no such group. spent tells whether the token is: then there is no state, and
-- nothing to validate.
-- Called by the endpoints of a group before they open it; ds.submit_message checks that the state is still the same. Not
-- LANGUAGE sql: that would be parsed and planned at each call.
CREATE OR REPLACE FUNCTION ds.load_group(issuer_key smallint, nonce bytea, group_id bytea, with_tree boolean)
RETURNS TABLE (
    spent boolean, epoch bigint, revision integer, last_commit bytea, state bytea, inactive_days integer,
    max_members integer, max_clients integer, max_domains integer, max_message_bytes integer, max_commit_bytes integer,
    max_authenticated_data_bytes integer, max_leaf_bytes integer, max_delivery_bytes integer,
    past_epochs integer, message_days integer, outbox_days integer, ciphersuites integer[])
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    spent := aas.is_token_spent(issuer_key, nonce);
    RETURN QUERY
        SELECT load_group.spent, g.epoch, g.revision, g.last_commit,
               CASE WHEN load_group.spent THEN NULL WHEN with_tree THEN g.tree ELSE g.roster END, s.inactive_days,
               s.max_members, s.max_clients, s.max_domains, s.max_message_bytes, s.max_commit_bytes,
               s.max_authenticated_data_bytes, s.max_leaf_bytes, s.max_delivery_bytes,
               s.past_epochs, o.message_days, federation.outbox_days(), o.ciphersuites
          FROM ds.groups g, ds.settings s, operator.settings o
         WHERE g.group_id = load_group.group_id;
END
$$;
