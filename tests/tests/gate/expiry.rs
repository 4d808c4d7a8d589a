//! Accounts that nobody uses any more (AS-9), if the operator wants them erased.

use postern_protocol::key::SigningKey;
use postern_tests_kit::{User, World, eventually};

async fn world() -> World {
    let world = World::builder().start().await;
    world.admin.execute("SELECT operator.set_user_limit('account_expiry_days', 180)", &[]).await.unwrap();
    world
}

async fn expire(world: &World) {
    let more: bool = world.value("SELECT auth.expire()").await;
    assert!(!more);
}

async fn names(world: &World) -> Vec<String> {
    let rows = world.admin.query("SELECT name FROM auth.users ORDER BY name", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// An owner ends the identity, and does not begin the next one.
async fn end(world: &World, user: &User) {
    let sql = "SELECT auth.end_identity($1, ROW(recovery_key, NULL, NULL, NULL)::auth.verified_proof, $2)
                 FROM auth.users WHERE name = $1";
    let successor = SigningKey::generate().public_key();
    world.admin.execute(sql, &[&user.name.local(), &successor.as_bytes().as_slice()]).await.unwrap();
}

#[tokio::test]
async fn an_account_that_ended_and_was_not_begun_anew_expires_like_one_whose_clients_are_silent() {
    let world = world().await;
    for name in ["silent", "active"] {
        world.user(name).await;
    }
    for name in ["ended", "ended-lately"] {
        let user = world.user(name).await;
        end(&world, &user).await;
    }
    expire(&world).await;
    assert_eq!(names(&world).await.len(), 4, "all were heard of this month");
    let pass = "UPDATE auth.clients SET heard = heard - 8
                 WHERE user_id = (SELECT user_id FROM auth.users WHERE name = 'silent');
                ALTER TABLE auth.incarnations DISABLE TRIGGER incarnations_stay_in_order;
                UPDATE auth.incarnations SET ended = ended - 8
                 WHERE user_id = (SELECT user_id FROM auth.users WHERE name = 'ended');
                ALTER TABLE auth.incarnations ENABLE ALWAYS TRIGGER incarnations_stay_in_order";
    world.admin.batch_execute(pass).await.unwrap();
    expire(&world).await;
    assert_eq!(names(&world).await, ["active", "ended-lately"]);
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_at_the_last_moment_keeps_its_account() {
    let world = world().await;
    world.user("alice").await;
    world.user("silent").await;
    world.admin.batch_execute("UPDATE auth.clients SET heard = heard - 8").await.unwrap();
    let coming_back = world.cluster.admin().await;
    let hear = "BEGIN;
        UPDATE auth.clients SET heard = auth.month(now())
         WHERE user_id = (SELECT user_id FROM auth.users WHERE name = 'alice')";
    coming_back.batch_execute(hear).await.unwrap();
    let done = async {
        eventually("the upkeep waits for the client", async || {
            let waits = coming_back
                .query_one(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'",
                    &[],
                )
                .await
                .unwrap()
                .get::<_, i64>(0);
            (waits > 0).then_some(())
        })
        .await;
        coming_back.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(expire(&world), done);
    assert_eq!(names(&world).await, ["alice"]);
    world.close();
}
