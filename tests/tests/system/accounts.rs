//! The database's own records of an account (AS-3, AS-8, AS-9): one incarnation after the other, each chained to the
//! end of the one before, and a log that goes with the account as a whole or not at all.

use postern_tests_kit::Cluster;
use tokio_postgres::{Client, error::SqlState};

/// A user with one client, and one commit to the EID.
async fn register(admin: &Client, name: &str) {
    let register = "SELECT outcome::text FROM auth.register_user(
                        $1, sha256(convert_to($1, 'UTF8')), 'group info', 'tree', 'eid', NULL, NULL, NULL)";
    let row = admin.query_one(register, &[&name]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "registered");
    let commit = "SELECT outcome::text FROM auth.commit_identity(
                      1::smallint, '', sha256(convert_to($1, 'UTF8')), 0, 'commit', 'eid', '{}', '{}')";
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
    let next = |end: &str| {
        format!(
            "INSERT INTO auth.incarnations (user_id, incarnation, previous_end, group_info, ratchet_tree, epoch, eid)
             SELECT user_id, 1, sha256('{end}'), 'group info', 'tree', 0, 'eid' FROM auth.users WHERE name = 'alice'"
        )
    };
    let refused = Some(SqlState::CHECK_VIOLATION);
    assert_eq!(refusal(&admin, &next("commit")).await, refused, "the first one lives");
    for change in ["epoch = epoch + 2", "epoch = epoch - 1", "group_info = 'another'", "incarnation = 1"] {
        let update = format!("UPDATE auth.incarnations SET {change}");
        assert_eq!(refusal(&admin, &update).await, refused, "{change}");
    }

    admin.batch_execute("UPDATE auth.incarnations SET eid = NULL").await.expect("it ends");
    assert_eq!(refusal(&admin, "UPDATE auth.incarnations SET eid = 'eid'").await, refused, "for ever");
    assert_eq!(refusal(&admin, &next("another commit")).await, refused, "it follows the last commit");
    admin.batch_execute(&next("commit")).await.expect("this one does");

    // Readers get the one that lives.
    let look_up =
        "SELECT outcome::text, cardinality(commits) FROM auth.look_up_user(1::smallint, '', 'alice', 0)";
    let row = admin.query_one(look_up, &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1)), ("found", 0));
    // Erasing takes them all.
    admin
        .execute("SELECT auth.erase_account(user_id) FROM auth.users WHERE name = 'alice'", &[])
        .await
        .unwrap();
    assert_eq!(rows(&admin).await, [1; 6]);
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
    assert_eq!(columns("a.attidentity <> ''").await, ["aas.issuer_keys.issuer_key"]);
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
        "auth.invites.expires",
        "auth.signing_keys.not_after",
        "auth.signing_keys.not_before",
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
