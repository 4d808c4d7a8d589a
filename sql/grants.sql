-- This list says which role may execute which function (OPS-3). It is applied after all functions, as postern_owner; a
-- function that is not in it can be executed by its owner only. Tables are granted to nobody.

GRANT USAGE ON SCHEMA postern, auth, aas, ds, qs, rendezvous, operator TO postern_server;
GRANT USAGE ON SCHEMA operator TO postern_operator, postern_monitor;

-- postern
GRANT EXECUTE ON FUNCTION postern.wake_secret TO postern_server;

-- operator
GRANT EXECUTE ON FUNCTION operator.claim_home_domain TO postern_server;
GRANT EXECUTE ON FUNCTION operator.current_home_domain TO postern_server, postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.current_key_version TO postern_server;
GRANT EXECUTE ON FUNCTION operator.current_schema_state TO postern_server, postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.claim_master_key TO postern_server;
GRANT EXECUTE ON FUNCTION operator.current_master_key TO postern_server, postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.load_digest_key TO postern_server;
GRANT EXECUTE ON FUNCTION operator.rotate_issuer_keys TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.issuer_keys TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.signing_keys TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.rotate_signing_keys TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.revoke_signing_key TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.signing_key_rotation TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_signing_key_rotation TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.certify_signing_key TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.root_key TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_root_key TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.sender_keys TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.rotate_sender_keys TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.application_server_keys TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.rotate_application_server_keys TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.set_allowance TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.set_new_user_allowance TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.set_homeserver_allowance TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.allowances TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.set_key_rotation TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.key_rotation TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_price TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.prices TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.token_use TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.tokens_issued TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.trust_homeserver_key TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.distrust_homeserver_key TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.homeserver_keys TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.queue_depths TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.busiest_queues TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.purge_queue TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.drop_queue TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.queue_limits TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_queue_limit TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.removed_messages TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.upkeep TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.wakeups TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.groups TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.group_expiry TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_group_expiry TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.group_limits TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_group_limit TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.ciphersuites TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.allow_ciphersuite TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.forbid_ciphersuite TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.user_limits TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_user_limit TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.rendezvous_limits TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_rendezvous_limit TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.reserved_names TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.reserve_name TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.release_name TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.registration_policy TO postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.set_registration_policy TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.make_invites TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.invites TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.revoke_invite TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.set_user_invites TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.users TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.show_user TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.suspend_user TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.unsuspend_user TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.delete_user TO postern_operator;
GRANT EXECUTE ON FUNCTION operator.wrong_proofs TO postern_operator;

-- auth
GRANT EXECUTE ON FUNCTION auth.admit_registration TO postern_server;
GRANT EXECUTE ON FUNCTION auth.clean_up TO postern_server;
GRANT EXECUTE ON FUNCTION auth.register_user TO postern_server;
GRANT EXECUTE ON FUNCTION auth.registration_terms TO postern_server;
GRANT EXECUTE ON FUNCTION auth.make_invite TO postern_server;
GRANT EXECUTE ON FUNCTION auth.load_client TO postern_server;
GRANT EXECUTE ON FUNCTION auth.store_credential TO postern_server;
GRANT EXECUTE ON FUNCTION auth.commit_identity TO postern_server;
GRANT EXECUTE ON FUNCTION auth.publish_contact TO postern_server;
GRANT EXECUTE ON FUNCTION auth.look_up_user TO postern_server;
GRANT EXECUTE ON FUNCTION auth.load_account TO postern_server;
GRANT EXECUTE ON FUNCTION auth.count_wrong_proof TO postern_server;
GRANT EXECUTE ON FUNCTION auth.replace_recovery_key TO postern_server;
GRANT EXECUTE ON FUNCTION auth.delete_account TO postern_server;
GRANT EXECUTE ON FUNCTION auth.find_lost_account TO postern_server;
GRANT EXECUTE ON FUNCTION auth.count_wrong_reset TO postern_server;
GRANT EXECUTE ON FUNCTION auth.end_identity TO postern_server;
GRANT EXECUTE ON FUNCTION auth.reset_account TO postern_server;
GRANT EXECUTE ON FUNCTION auth.rename_user TO postern_server;
GRANT EXECUTE ON FUNCTION auth.load_profile_limits TO postern_server;
GRANT EXECUTE ON FUNCTION auth.put_profile TO postern_server;
GRANT EXECUTE ON FUNCTION auth.fetch_picture TO postern_server;
GRANT EXECUTE ON FUNCTION auth.expire TO postern_server;
GRANT EXECUTE ON FUNCTION auth.load_signing_keys TO postern_server;
GRANT EXECUTE ON FUNCTION auth.add_signing_key TO postern_server;
GRANT EXECUTE ON FUNCTION auth.due_signing_keys TO postern_server;
GRANT EXECUTE ON FUNCTION auth.drop_signing_keys TO postern_server;
GRANT EXECUTE ON FUNCTION auth.load_root_key TO postern_server;

-- aas
GRANT EXECUTE ON FUNCTION aas.settle_token TO postern_server;
GRANT EXECUTE ON FUNCTION aas.is_token_spent TO postern_server;
GRANT EXECUTE ON FUNCTION aas.use_signature TO postern_server;
GRANT EXECUTE ON FUNCTION aas.forget_signatures TO postern_server;
GRANT EXECUTE ON FUNCTION aas.admit_signer TO postern_server;
GRANT EXECUTE ON FUNCTION aas.count_refusal TO postern_server;
GRANT EXECUTE ON FUNCTION aas.take_allowance TO postern_server;
GRANT EXECUTE ON FUNCTION aas.load_issuer_keys TO postern_server;
GRANT EXECUTE ON FUNCTION aas.due_issuer_keys TO postern_server;
GRANT EXECUTE ON FUNCTION aas.add_issuer_key TO postern_server;
GRANT EXECUTE ON FUNCTION aas.drop_retired_key TO postern_server;
GRANT EXECUTE ON FUNCTION aas.clean_up TO postern_server;
GRANT EXECUTE ON FUNCTION aas.record_use TO postern_server;

-- ds
GRANT EXECUTE ON FUNCTION ds.reserve_group_id TO postern_server;
GRANT EXECUTE ON FUNCTION ds.create_group TO postern_server;
GRANT EXECUTE ON FUNCTION ds.load_group TO postern_server;
GRANT EXECUTE ON FUNCTION ds.submit_message TO postern_server;
GRANT EXECUTE ON FUNCTION ds.delete_group TO postern_server;
GRANT EXECUTE ON FUNCTION ds.load_welcome_tree TO postern_server;
GRANT EXECUTE ON FUNCTION ds.clean_up TO postern_server;
GRANT EXECUTE ON FUNCTION ds.load_sender_keys TO postern_server;
GRANT EXECUTE ON FUNCTION ds.add_sender_key TO postern_server;
GRANT EXECUTE ON FUNCTION ds.propose_removal TO postern_server;

-- qs
GRANT EXECUTE ON FUNCTION qs.create_queue TO postern_server;
GRANT EXECUTE ON FUNCTION qs.add_addresses TO postern_server;
GRANT EXECUTE ON FUNCTION qs.revoke_addresses TO postern_server;
GRANT EXECUTE ON FUNCTION qs.rotate_keys TO postern_server;
GRANT EXECUTE ON FUNCTION qs.set_push_policy TO postern_server;
GRANT EXECUTE ON FUNCTION qs.subscribe_push TO postern_server;
GRANT EXECUTE ON FUNCTION qs.drop_push_subscription TO postern_server;
GRANT EXECUTE ON FUNCTION qs.load_application_server_keys TO postern_server;
GRANT EXECUTE ON FUNCTION qs.add_application_server_key TO postern_server;
GRANT EXECUTE ON FUNCTION qs.delete_queue TO postern_server;
GRANT EXECUTE ON FUNCTION qs.deposit TO postern_server;
GRANT EXECUTE ON FUNCTION qs.dequeue TO postern_server;
GRANT EXECUTE ON FUNCTION qs.next_messages TO postern_server;
GRANT EXECUTE ON FUNCTION qs.queues_with_messages TO postern_server;
GRANT EXECUTE ON FUNCTION qs.start_upkeep TO postern_server;
GRANT EXECUTE ON FUNCTION qs.keep_up TO postern_server;
GRANT EXECUTE ON FUNCTION qs.publish_key_packages TO postern_server;
GRANT EXECUTE ON FUNCTION qs.fetch_key_packages TO postern_server;
GRANT EXECUTE ON FUNCTION qs.count_key_packages TO postern_server;
GRANT EXECUTE ON FUNCTION qs.remove_key_packages TO postern_server;
GRANT EXECUTE ON FUNCTION qs.load_stocks TO postern_server;
GRANT EXECUTE ON FUNCTION qs.rotate_friendship_token TO postern_server;

-- rendezvous
GRANT EXECUTE ON FUNCTION rendezvous.create_rendezvous TO postern_server;
GRANT EXECUTE ON FUNCTION rendezvous.join_rendezvous TO postern_server;
GRANT EXECUTE ON FUNCTION rendezvous.leave_payload TO postern_server;
GRANT EXECUTE ON FUNCTION rendezvous.receive_payloads TO postern_server;
GRANT EXECUTE ON FUNCTION rendezvous.next_payloads TO postern_server;
GRANT EXECUTE ON FUNCTION rendezvous.end_rendezvous TO postern_server;
GRANT EXECUTE ON FUNCTION rendezvous.clean_up TO postern_server;
