//! The database's own records of an account (AS-3, AS-8, AS-9): one incarnation after the other, each chained to the
//! end of the one before, and a log that goes with the account as a whole or not at all.

use postern_tests_kit::Cluster;
use tokio_postgres::{Client, error::SqlState};

/// A user with one client, and one commit to the EID.
async fn register(admin: &Client, name: &str) {
    let register = "SELECT outcome::text FROM auth.register_user(
                        $1, sha256(convert_to($1, 'UTF8')), 'group info', 'tree', 'eid', sha256(''), sha512(''), NULL,
                        sha256(''), NULL, NULL)";
    let row = admin.query_one(register, &[&name]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "registered");
    let commit = "SELECT outcome::text FROM auth.commit_identity(
                      1::smallint, '', sha256(convert_to($1, 'UTF8')), 0, 'commit',
                      (SELECT auth.following_transcript(i.transcript, 'commit')
                         FROM auth.incarnations i JOIN auth.users USING (user_id) WHERE name = $1),
                      'next group info', 'next tree', 'eid', sha256(''), sha512(''), '{}', '{}')";
    let row = admin.query_one(commit, &[&name]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "committed");
    admin.execute("SELECT operator.set_allowance(5, $1)", &[&name]).await.unwrap();
}

async fn world() -> (Cluster, Client) {
    let cluster = Cluster::start().await;
    let admin = cluster.admin().await;
    admin
        .batch_execute("UPDATE aas.prices SET price = 0 WHERE endpoint LIKE 'auth.%'")
        .await
        .expect("prices can be set");
    for name in ["alice", "bob"] {
        register(&admin, name).await;
    }
    (cluster, admin)
}

async fn refusal(client: &Client, sql: &str) -> Option<SqlState> {
    client.batch_execute(sql).await.err().and_then(|error| error.code().cloned())
}

/// Rows of each table of accounts, in the order of their names.
async fn rows(admin: &Client) -> [i64; 6] {
    let count = "SELECT (SELECT count(*) FROM aas.allowances), (SELECT count(*) FROM aas.takers),
                        (SELECT count(*) FROM auth.clients), (SELECT count(*) FROM auth.eid_log),
                        (SELECT count(*) FROM auth.incarnations), (SELECT count(*) FROM auth.users)";
    let row = admin.query_one(count, &[]).await.unwrap();
    std::array::from_fn(|index| row.get(index))
}

#[tokio::test]
async fn an_account_is_erased_as_a_whole_by_one_function_and_nothing_else() {
    let (cluster, admin) = world().await;
    let nobodys = "SELECT auth.erase_account(gen_random_uuid())";
    for preparation in ["RESET ROLE", "SET session_replication_role = replica", "SET ROLE postern_owner"] {
        admin.batch_execute(preparation).await.unwrap();
        for change in [
            "DELETE FROM auth.eid_log",
            "DELETE FROM auth.eid_log WHERE epoch = 0 /* auth.erase_account(uuid) */",
            "UPDATE auth.eid_log SET commit = 'another'",
            "TRUNCATE auth.eid_log",
            "DELETE FROM auth.incarnations",
            "TRUNCATE auth.incarnations CASCADE",
            "DELETE FROM auth.users",
            "TRUNCATE auth.users CASCADE",
            "DO $$ BEGIN DELETE FROM auth.eid_log /* auth.erase_account(uuid) */; END $$",
            "DO $$ BEGIN DELETE FROM auth.eid_log
              /* x auth.erase_account(uuid) */; END $$",
            "SELECT auth.erase_account(gen_random_uuid()); DELETE FROM auth.eid_log",
        ] {
            let refused = refusal(&admin, change).await;
            assert_eq!(refused, Some(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{preparation}: {change}");
        }
        assert!(!admin.query_one(nobodys, &[]).await.unwrap().get::<_, bool>(0));
    }
    admin.batch_execute("RESET ROLE; RESET session_replication_role").await.unwrap();
    assert_eq!(rows(&admin).await, [2; 6]);
    for role in ["postern_server", "postern_operator", "postern_monitor"] {
        let client = cluster.connect_as(role).await;
        assert_eq!(refusal(&client, nobodys).await, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{role}");
    }

    let erase = "SELECT auth.erase_account(user_id) FROM auth.users WHERE name = 'alice'";
    assert!(admin.query_one(erase, &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(rows(&admin).await, [1; 6]);
    assert!(!cluster.dump().await.contains("alice"), "nothing is left");
    // Her name and her key are free.
    register(&admin, "alice").await;
    assert_eq!(rows(&admin).await, [2; 6]);
}

#[tokio::test]
async fn an_incarnation_is_chained_to_the_end_of_the_one_before_and_one_lives_at_a_time() {
    let (_cluster, admin) = world().await;
    let next = |end: &str, transcript: &str| {
        format!(
            "INSERT INTO auth.incarnations
                 (user_id, incarnation, previous_end, group_info, ratchet_tree, founder, epoch, transcript, tree_hash,
                  state_signature, eid)
             SELECT user_id, 1, {end}, 'group info', 'tree', sha256('key'), 0, {transcript}, sha256(''), sha512(''), 'eid'
               FROM auth.incarnations JOIN auth.users USING (user_id) WHERE name = 'alice'"
        )
    };
    let founded = |end: &str| next(end, &format!("auth.founding_transcript({end}, 'group info', 'tree')"));
    let refused = Some(SqlState::CHECK_VIOLATION);
    assert_eq!(refusal(&admin, &founded("transcript")).await, refused, "the first one lives");

    admin.batch_execute("UPDATE auth.incarnations SET eid = NULL").await.expect("it ends");
    assert_eq!(refusal(&admin, "UPDATE auth.incarnations SET eid = 'eid'").await, refused, "for ever");
    assert_eq!(refusal(&admin, &founded("founding")).await, refused, "it follows the last state");
    for transcript in ["transcript", "auth.founding_transcript(NULL, 'group info', 'tree')"] {
        assert_eq!(refusal(&admin, &next("transcript", transcript)).await, refused, "its own begins anew");
    }
    admin.batch_execute(&founded("transcript")).await.expect("this one does");

    // Readers get the one that lives.
    let look_up = "SELECT outcome::text, incarnation, cardinality(ended)
                     FROM auth.look_up_user(1::smallint, '', 'alice', NULL, NULL, NULL)";
    let row = admin.query_one(look_up, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), ("found", 1, 1));
    // Erasing takes them all.
    admin
        .execute("SELECT auth.erase_account(user_id) FROM auth.users WHERE name = 'alice'", &[])
        .await
        .unwrap();
    assert_eq!(rows(&admin).await, [1; 6]);
}

/// A server process with a fault, or an operator at a prompt, cannot write a history that readers would not follow.
#[tokio::test]
async fn the_database_takes_no_step_of_an_identity_but_the_one_that_its_log_has() {
    let (_cluster, admin) = world().await;
    let refused = Some(SqlState::CHECK_VIOLATION);
    let step = |transcript: &str| {
        format!(
            "UPDATE auth.incarnations
                SET epoch = epoch + 1, eid = 'eid', current_group_info = 'info', transcript = {transcript}"
        )
    };
    for change in [
        "epoch = epoch + 2",
        "epoch = epoch + 1",
        "epoch = epoch - 1",
        "group_info = 'another'",
        "founder = sha256('another')",
        "incarnation = 1",
        "transcript = sha256('another')",
        "tree_hash = sha256('another')",
        "state_signature = sha512('another')",
        "current_ratchet_tree = 'another'",
        "eid = 'another'",
        "eid = NULL, transcript = sha256('another')",
    ] {
        let update = format!("UPDATE auth.incarnations SET {change}");
        assert_eq!(refusal(&admin, &update).await, refused, "{change}");
    }
    let follows = step("auth.following_transcript(transcript, 'second')");
    assert_eq!(refusal(&admin, &follows).await, refused, "a commit that is not in the log");
    let log = |epoch: i64, commit: &str| {
        format!(
            "INSERT INTO auth.eid_log (user_id, incarnation, epoch, commit)
             SELECT user_id, incarnation, {epoch}, '{commit}' FROM auth.incarnations"
        )
    };
    for (what, sql) in [
        ("a commit without a step", log(1, "second")),
        ("a commit of a past epoch", log(0, "second")),
        ("a commit of a later epoch", log(2, "second")),
        ("a step to another transcript", format!("{}; {}", log(1, "second"), step("sha256('another')"))),
        ("a step that another commit leads to", format!("{}; {follows}", log(1, "third"))),
    ] {
        let code = refusal(&admin, &format!("BEGIN; {sql}; COMMIT")).await;
        admin.batch_execute("ROLLBACK").await.unwrap();
        assert!(code == refused || code == Some(SqlState::UNIQUE_VIOLATION), "{what}: {code:?}");
    }
    admin
        .batch_execute(&format!("BEGIN; {}; {follows}; COMMIT", log(1, "second")))
        .await
        .expect("a true step");
    admin.batch_execute("UPDATE auth.incarnations SET eid = NULL").await.expect("it ends");
    assert_eq!(refusal(&admin, &log(2, "third")).await, refused, "an identity that has ended");
}

/// AS-4, AS-13
#[tokio::test]
async fn the_database_keeps_no_credential_of_a_client_that_is_not_confirmed() {
    let (_cluster, admin) = world().await;
    let refused = Some(SqlState::CHECK_VIOLATION);
    let client = |columns: &str, values: &str| {
        format!(
            "INSERT INTO auth.clients (client_key, user_id, incarnation, confirmed{columns})
             SELECT sha256('a new key'), user_id, 0, {values} FROM auth.users WHERE name = 'alice'"
        )
    };
    assert_eq!(
        refusal(&admin, &client("", "true")).await,
        refused,
        "one that was not there at the beginning"
    );
    assert_eq!(refusal(&admin, &client(", credential", "false, 'credential'")).await, refused);
    assert_eq!(refusal(&admin, &client(", sealed_contact", "false, 'contact'")).await, refused);
    admin.batch_execute(&client("", "false")).await.expect("a pending one");
    let key = "sha256('a new key')";
    for change in ["credential = 'credential'", "sealed_contact = 'contact'", "client_key = sha256('key')"] {
        let update = format!("UPDATE auth.clients SET {change} WHERE client_key = {key}");
        assert_eq!(refusal(&admin, &update).await, refused, "{change}");
    }
    let store =
        format!("SELECT outcome::text FROM auth.store_credential(1::smallint, '', {key}, 'credential')");
    let outcome = async |sql: &str| admin.query_one(sql, &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(outcome(&store).await, "unknown_client");
    let publish =
        format!("SELECT outcome::text FROM auth.publish_contact(1::smallint, '', {key}, 'contact')");
    assert_eq!(outcome(&publish).await, "unknown_client");
    admin
        .batch_execute(&format!("UPDATE auth.clients SET confirmed = true WHERE client_key = {key}"))
        .await
        .unwrap();
    assert_eq!(outcome(&store).await, "stored");
    let back =
        format!("UPDATE auth.clients SET confirmed = false, credential = NULL WHERE client_key = {key}");
    assert_eq!(refusal(&admin, &back).await, refused, "confirmed once, confirmed for ever");
    // Nobody moves to another account.
    let moved = format!(
        "UPDATE auth.clients SET user_id = (SELECT user_id FROM auth.users WHERE name = 'bob') WHERE client_key = {key}"
    );
    assert_eq!(refusal(&admin, &moved).await, refused);
}

/// No serial number or day joins a user with a queue, or two queues (PRIV-4, PRIV-5).
#[tokio::test]
async fn no_account_and_no_queue_tells_when_it_was_made() {
    let (_cluster, admin) = world().await;
    let columns = async |condition: &str| -> Vec<String> {
        let sql = format!(
            "SELECT c.oid::regclass || '.' || a.attname
               FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
                AND c.relnamespace IN ('auth'::regnamespace, 'aas'::regnamespace, 'qs'::regnamespace)
                AND ({condition})
              ORDER BY 1"
        );
        admin.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(
        columns("a.attidentity <> ''").await,
        ["aas.issuer_keys.issuer_key", "qs.application_server_keys.number"]
    );
    // The columns that are left expire by the day, or count per day; keys are no users.
    let dated = columns("format_type(a.atttypid, NULL) ~ 'date|time'").await;
    let kept = [
        "aas.issued.day",
        "aas.issued_in_all.day",
        "aas.issuer_keys.not_after",
        "aas.issuer_keys.not_before",
        "aas.issuer_keys.retires",
        "aas.requests.day",
        "aas.token_use.day",
        "auth.commits_today.day",
        "auth.invites.expires",
        "auth.signing_keys.not_after",
        "auth.signing_keys.not_before",
        "auth.signing_keys.revoked",
        "qs.friendships.last_active",
        "qs.key_packages.expires",
        "qs.messages.enqueued",
        "qs.queues.last_active",
        "qs.removed.day",
        "qs.sweep.day",
        "qs.sweep.scrub_day",
    ];
    assert_eq!(dated, kept);
}

#[tokio::test]
async fn accounts_expire_so_many_at_a_time_and_only_where_all_clients_are_silent() {
    let (_cluster, admin) = world().await;
    let crowd = "SELECT count(*) FROM generate_series(1, 1001) n, auth.register_user(
                     'user' || n, sha256(convert_to('user' || n, 'UTF8')), 'group info', 'tree', 'eid', sha256(''),
                     sha512(''), NULL, sha256(''), NULL, NULL)";
    admin.execute(crowd, &[]).await.unwrap();
    let expire = async || -> bool { admin.query_one("SELECT auth.expire()", &[]).await.unwrap().get(0) };
    let left = async || rows(&admin).await[5];
    admin.batch_execute("UPDATE auth.clients SET heard = heard - 100").await.expect("months can pass");
    assert!(!expire().await);
    assert_eq!(left().await, 1003, "accounts stay, unless the operator says otherwise");

    admin.batch_execute("SELECT operator.set_user_limit('account_expiry_days', 180)").await.unwrap();
    // Alice and Bob were here in the last half year.
    let heard = "UPDATE auth.clients c SET heard = auth.month(now()) - 5
                   FROM auth.users u WHERE u.user_id = c.user_id AND u.name IN ('alice', 'bob')";
    admin.batch_execute(heard).await.unwrap();
    assert!(expire().await, "there are more");
    assert_eq!(left().await, 3);
    assert!(!expire().await);
    assert_eq!(rows(&admin).await, [2; 6]);

    let refused = async |limit: &str, days: i32| {
        refusal(&admin, &format!("SELECT operator.set_user_limit('{limit}', {days})")).await.is_some()
    };
    for (limit, days, is_refused) in [
        // A credential is good for 90 days, and nobody loses it before.
        ("client_expiry_days", 89, true),
        ("client_expiry_days", 90, false),
        ("account_expiry_days", 179, true),
        ("account_expiry_days", 0, false),
    ] {
        assert_eq!(refused(limit, days).await, is_refused, "{limit} {days}");
    }
}

/// Readers take 64 MiB. Removals come on top of the limit, of each client but one.
#[tokio::test]
async fn no_limits_let_the_history_of_an_identity_grow_beyond_what_clients_read() {
    let (_cluster, admin) = world().await;
    let (history, commit, clients) = (50_331_648, 65_536, 256);
    for (limit, value, is_refused) in [
        ("max_identity_history_bytes", history + 1, true),
        ("max_identity_history_bytes", history, false),
        ("max_identity_commit_bytes", commit + 1, true),
        ("max_identity_commit_bytes", commit, false),
        ("max_clients", clients + 1, true),
        ("max_clients", clients, false),
    ] {
        let refusal = refusal(&admin, &format!("SELECT operator.set_user_limit('{limit}', {value})")).await;
        assert_eq!(refusal.is_some(), is_refused, "{limit} {value}: {refusal:?}");
    }
    let most = "SELECT max_identity_history_bytes + (max_clients - 1) * max_identity_commit_bytes FROM auth.settings";
    let most: i32 = admin.query_one(most, &[]).await.unwrap().get(0);
    assert!(most <= 64 * 1024 * 1024, "{most}");
}
