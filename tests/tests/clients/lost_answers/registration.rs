//! Registrations whose answers are lost: they are taken up with the same key.

use postern_client::Client;
use postern_protocol::problem::ProblemType;
use postern_tests_kit::{BadLine, Call, World, eventually};

use super::{ALL_ATTEMPTS, months_pass, options, register, written_down};

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_taken_up_with_the_same_key() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    for (name, times) in [("once", 1), ("often", ALL_ATTEMPTS)] {
        line.cut("POST /as/users", times, 0);
        let first = register(&world, &line, name).await;
        assert_eq!(line.mend(), times);
        if times == ALL_ATTEMPTS {
            assert!(first.err().expect("there is no answer").is_passing());
            // The account exists by now. A refusal for now says nothing about the key.
            line.answer("POST /as/users", 100, &BadLine::refusal(ProblemType::TooManyRegistrations));
            let error = register(&world, &line, name).await.err().expect("it is refused for now");
            assert_eq!(error.problem(), Some(ProblemType::TooManyRegistrations));
            line.mend();
            // Neither does a lack of tokens.
            let away = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            line.answer("POST /aas/token-request", 100, away);
            let error = register(&world, &line, name).await.err().expect("there are no tokens");
            assert!(error.is_passing(), "{error}");
            line.mend();
            register(&world, &line, name).await.expect("the key is there");
        } else {
            first.expect("the client asked again by itself");
        }
    }
    assert_eq!(world.count("auth.users").await, 2);
}

/// The key is given up only when it is nobody's, whatever the AS says to a repeat.
#[tokio::test]
async fn a_registration_that_was_refused_after_a_lost_answer_keeps_its_key_if_there_is_an_account() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let kinds = [
        ProblemType::NameTaken,
        ProblemType::NotAdmitted,
        ProblemType::AccountExists,
        ProblemType::NotAllowed,
    ];
    for (place, kind) in kinds.into_iter().enumerate() {
        let name = format!("user-{place}");
        line.cut("POST /as/users", ALL_ATTEMPTS, 0);
        let lost = register(&world, &line, &name).await;
        assert!(lost.err().expect("there is no answer").is_passing(), "{kind:?}");
        line.mend();
        line.answer("POST /as/users", 100, &BadLine::refusal(kind));
        let client = register(&world, &line, &name).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        line.mend();
        client.create_group("mine").await.unwrap();
    }
    assert_eq!(world.count("auth.users").await, 4);
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_taken_up_after_months() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    line.cut("POST /as/users", ALL_ATTEMPTS, 0);
    let lost = register(&world, &line, "alice").await;
    assert!(lost.err().expect("there is no answer").is_passing());
    line.mend();
    months_pass(&world).await;
    let alice = register(&world, &line, "alice").await.expect("the account is hers");
    alice.create_group("mine").await.unwrap();
    assert!(alice.recovery_key().unwrap().is_some(), "she can be shown the key of the account");
    assert_eq!(world.count("auth.users").await, 1);
    assert_eq!(world.count("auth.clients WHERE credential IS NULL").await, 0);
}

/// The AS answers the repeat with the credential of then, which is no good any more, as after months.
#[tokio::test]
async fn a_registration_or_a_reset_whose_answer_was_lost_goes_on_though_its_credential_is_no_good_since() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let key = written_down(&world.person("bob").await);
    let phone = Client::builder(world.homes.path().join("new-phone")).server(line.url()).options(options());
    line.cut("POST /as/users", ALL_ATTEMPTS, 0);
    let lost = register(&world, &line, "alice").await;
    assert!(lost.err().expect("there is no answer").is_passing());
    line.mend();
    line.cut("POST /as/account/reset", ALL_ATTEMPTS, 0);
    let lost = phone.reset("bob", &key).await;
    assert!(lost.err().expect("there is no answer").is_passing());
    line.mend();

    let shown = async || world.send(&Call::get("/as/keys").wire()).await.body;
    let before = shown().await;
    world.admin.execute("SELECT operator.rotate_signing_keys('as', revoke => true)", &[]).await.unwrap();
    eventually("the server shows it", async || (shown().await != before).then_some(())).await;
    let alice = register(&world, &line, "alice").await.expect("the account is hers");
    let bob = phone.reset("bob", &key).await.expect("the account is his");
    for client in [&alice, &bob] {
        client.create_group("mine").await.unwrap();
        let found = alice.look_up(client.user()).await.unwrap();
        assert_eq!(found.clients.len(), 1, "{}", client.user());
    }
}

#[tokio::test]
async fn a_registration_that_is_refused_leaves_nothing_behind_that_is_in_the_way_of_another() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    register(&world, &line, "alice").await.unwrap();
    let home = world.homes.path().join("another");
    let builder = Client::builder(&home).server(line.url()).options(options());
    let taken = builder.register("alice").await.err().expect("it is taken");
    assert_eq!(taken.problem(), Some(ProblemType::NameTaken));
    builder.register("another").await.expect("the directory can be used");

    let home = world.homes.path().join("a-third");
    let builder = Client::builder(&home).server(line.url()).options(options());
    line.answer("POST /as/users", 100, &BadLine::refusal(ProblemType::NotAllowed));
    let refused = builder.register("third").await.err().expect("it is refused");
    assert_eq!(refused.problem(), Some(ProblemType::NotAllowed));
    line.mend();
    builder.register("fourth").await.expect("nobody has the key");
}

#[tokio::test]
async fn every_step_of_a_registration_may_lose_its_answer() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let steps = [
        "GET /as/keys",
        "GET /.well-known/private-token-issuer-directory",
        "POST /aas/token-request",
        "POST /qs/queues ",
        "/addresses ",
        "PUT /qs/key-packages",
        "PUT /as/contact",
    ];
    for (place, named) in steps.into_iter().enumerate() {
        for times in [1, ALL_ATTEMPTS] {
            let name = format!("user-{place}-{times}");
            line.cut(named, times, 0);
            let first = register(&world, &line, &name).await;
            assert_eq!(line.mend(), times, "{named}");
            let client = match first {
                Ok(client) => client,
                Err(error) => {
                    assert!(times == ALL_ATTEMPTS && error.is_passing(), "{named}: {error}");
                    register(&world, &line, &name).await.unwrap_or_else(|error| panic!("{named}: {error}"))
                }
            };
            client.create_group("mine").await.unwrap();
        }
    }
}
