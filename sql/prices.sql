-- The price list (AAS-5) has every endpoint that asks for a token, and its price in tokens, 0 or 1, until
-- operator.set_price says something else. A token that is to be spent for an endpoint that is not here is a fault. The
-- list is applied again with all functions: prices that the operator changed stay, endpoints that are gone are removed.
WITH listed (endpoint, price) AS (VALUES
    ('auth.commit_identity', 1),
    ('auth.delete_account', 1),
    ('auth.fetch_picture', 1),
    ('auth.look_up_user', 1),
    ('auth.make_invite', 1),
    ('auth.publish_contact', 1),
    ('auth.put_profile', 1),
    ('auth.rename_user', 1),
    ('auth.replace_recovery_key', 1),
    ('auth.store_credential', 1),
    ('ds.create_group', 1),
    ('ds.delete_group', 1),
    ('ds.fetch_group_info', 1),
    ('ds.fetch_welcome_tree', 1),
    ('ds.reserve_group_id', 1),
    ('ds.submit_message', 1),
    ('federation.relay_request', 1),
    ('federation.relay_token_request', 1),
    ('federation.show_homeserver', 1),
    ('qs.add_addresses', 1),
    ('qs.count_key_packages', 1),
    ('qs.create_queue', 1),
    ('qs.delete_queue', 1),
    ('qs.deposit', 1),
    ('qs.dequeue', 1),
    ('qs.fetch_key_packages', 1),
    ('qs.publish_key_packages', 1),
    ('qs.receive_deliveries', 1),
    ('qs.remove_key_packages', 1),
    ('qs.revoke_addresses', 1),
    ('qs.rotate_friendship_token', 1),
    ('qs.rotate_keys', 1),
    ('qs.set_push_policy', 1),
    ('qs.subscribe_push', 1),
    ('rendezvous.create_rendezvous', 1)
), gone AS (
    DELETE FROM aas.prices p WHERE NOT EXISTS (SELECT FROM listed l WHERE l.endpoint = p.endpoint)
)
INSERT INTO aas.prices (endpoint, price) SELECT l.endpoint, l.price FROM listed l
ON CONFLICT ON CONSTRAINT prices_pkey DO NOTHING;
