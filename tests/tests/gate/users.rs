//! The operator's hand on users, in SQL (OPS-1): who there is, and suspension, which ends tokens and credentials and says
//! nothing to others.

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Ask, Call, User, World, asking_for_tokens};
use reqwest::StatusCode;
use tokio_postgres::Client;

async fn names(operator: &Client, arguments: &str) -> Vec<String> {
    let rows = operator.query(&format!("SELECT name FROM operator.users({arguments})"), &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn users_are_listed_a_page_at_a_time_and_shown_one_by_one() {
    let world = World::builder().tokens(10).start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let mut alice = world.user("alice").await;
    for name in ["émile", "Bob", "zoë"] {
        world.user(name).await;
    }
    world.add_device(&mut alice).await;
    assert_eq!(names(&operator, "").await, ["alice", "banker", "bob", "zoë", "émile"]);
    assert_eq!(names(&operator, "page => 2").await, ["alice", "banker"]);
    assert_eq!(names(&operator, "'banker', 2").await, ["bob", "zoë"]);
    assert_eq!(names(&operator, "'émile'").await, Vec::<String>::new());

    operator.execute("SELECT operator.set_allowance(7, 'ALICE')", &[]).await.unwrap();
    operator.execute("SELECT operator.set_user_invites('alice', 3)", &[]).await.unwrap();
    let shown = operator.query_one("SELECT * FROM operator.show_user('Ａlice')", &[]).await.unwrap();
    assert_eq!(shown.get::<_, &str>("name"), "alice");
    assert_eq!((shown.get::<_, i64>("clients"), shown.get::<_, i64>("credentials")), (2, 1));
    assert_eq!((shown.get::<_, i32>("resets"), shown.get::<_, i64>("epoch")), (0, 2));
    assert_eq!((shown.get::<_, i32>("tokens"), shown.get::<_, i32>("invites")), (7, 3));
    assert!(!shown.get::<_, bool>("suspended") && !shown.get::<_, bool>("has_login"));
    for sql in [
        "SELECT operator.show_user('nobody')",
        "SELECT operator.suspend_user('nobody')",
        "SELECT operator.unsuspend_user('nobody')",
        "SELECT operator.delete_user('nobody')",
        "SELECT operator.set_user_invites('nobody', 1)",
        "SELECT operator.set_allowance(1, 'nobody')",
        "SELECT operator.delete_user('')",
        "SELECT operator.delete_user(NULL)",
    ] {
        let error = operator.execute(sql, &[]).await.expect_err(sql);
        assert!(error.as_db_error().unwrap().message().contains("no user of that name"), "{sql}: {error}");
    }
    for role in ["postern_server", "postern_monitor"] {
        let client = world.cluster.connect_as(role).await;
        assert!(client.execute("SELECT operator.users()", &[]).await.is_err(), "{role}");
        assert!(client.execute("SELECT operator.delete_user('alice')", &[]).await.is_err(), "{role}");
    }

    operator.execute("SELECT operator.delete_user('ALICE')", &[]).await.unwrap();
    assert_eq!(names(&operator, "").await, ["banker", "bob", "zoë", "émile"]);
    let gone = world.pay(&Call::get("/as/users/alice@home.example")).await;
    assert!(gone.is_problem("not-found"));
    assert!(!world.cluster.dump().await.contains("alice"));
    world.user("alice").await;
}

#[tokio::test]
async fn a_suspended_user_gets_no_tokens_and_no_credentials_and_nobody_else_hears_of_it() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let ask = async |sql: &str| operator.query_one(sql, &[]).await.unwrap().get::<_, bool>(0);
    let credential = || {
        Call::post("/as/credentials")
            .with(&postern_protocol::auth::SignCredential {})
            .signed_by(&alice.device.key)
    };
    let before = world.pay(&Call::get(format!("/as/users/{}", alice.name))).await;
    world.pay(&credential()).await.assert_ok("before");

    assert!(ask("SELECT operator.suspend_user('Alice')").await);
    assert!(!ask("SELECT operator.suspend_user('alice')").await, "it is already");
    let batch = Ask::batch(world.token_key(), 10);
    let asked = asking_for_tokens(&alice.device.key, batch.media_type, batch.body.clone());
    let issued = world.issued().await;
    assert!(world.send(&asked.wire()).await.is_problem("account-suspended"));
    assert_eq!(world.issued().await, issued);
    world.assert_refuses("a credential", &credential(), ProblemType::AccountSuspended).await;
    let after = world.pay(&Call::get(format!("/as/users/{}", alice.name))).await;
    assert_eq!(after.status, StatusCode::OK);
    let record = |reply: &postern_tests_kit::Reply| {
        reply.decode::<postern_protocol::auth::UserRecord>().current.group_info
    };
    assert_eq!(record(&after), record(&before));
    let taken = world.send(&User::new("alice").registration().wire()).await;
    assert!(taken.is_problem("name-taken"), "{}", taken.text());

    assert!(ask("SELECT operator.unsuspend_user('alice')").await);
    assert!(!ask("SELECT operator.unsuspend_user('alice')").await);
    let batch = Ask::batch(world.token_key(), 10);
    assert_eq!(world.tokens(0, &alice.device.key, &batch).await.len(), 10);
    world.pay(&credential()).await.assert_ok("after");
    world.close();
}
