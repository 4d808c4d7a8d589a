//! Requests that meet: two that want the same thing at the same moment are answered as one after the other, whoever is
//! first, and none with a fault of ours.

use std::pin::pin;

use futures_util::future::join_all;
use postern_protocol::{FriendshipToken, problem::ProblemType, qs::QueueKind, token::TokenType};
use postern_tests_kit::{
    Ask, Commit, Friendship, Reply, World, eventually, fresh_address, fresh_stock, fresh_token,
    identity_commit, packages,
};
use reqwest::StatusCode;
use tokio_postgres::types::ToSql;

/// Sends a request while another transaction, which came first, is about to commit.
async fn beside(
    world: &World,
    first: &str,
    parameters: &[&(dyn ToSql + Sync)],
    second: impl Future<Output = Reply>,
) -> Reply {
    let connection = world.cluster.admin().await;
    connection.batch_execute("BEGIN").await.unwrap();
    connection.execute(first, parameters).await.unwrap();
    let waits = eventually("the request waits for it", async || {
        let waiting: i64 = world.value("SELECT count(*) FROM pg_locks WHERE NOT granted").await;
        (waiting > 0).then_some(())
    });
    let mut second = pin!(second);
    tokio::select! {
        reply = &mut second => panic!("the request did not wait: {} {}", reply.status, reply.text()),
        () = waits => {}
    }
    connection.batch_execute("COMMIT").await.unwrap();
    second.await
}

#[tokio::test]
async fn an_address_that_two_queues_get_at_once_is_one_queues() {
    let world = World::builder().servers(2).patient().start().await;
    world.stock(100).await;
    let (one, two) = (world.mailbox(QueueKind::Group).await, world.mailbox(QueueKind::Group).await);
    let (known, fresh) = (fresh_address(), fresh_address());
    let first =
        "INSERT INTO qs.addresses (lookup, sealed_queue_id) SELECT * FROM postern.seal_addresses($1, $2)";
    let address = vec![known.as_bytes().to_vec()];
    let parameters: [&(dyn ToSql + Sync); 2] = [&address, &two.id.as_bytes().as_slice()];
    let call = one.adding(vec![fresh, known]);
    let reply = beside(&world, first, &parameters, world.pay(&call)).await;
    reply.assert_problem("the second one", ProblemType::AddressExists);
    assert_eq!(world.count("qs.addresses").await, 1, "none of its addresses is added");

    // To one queue both requests add the same, in whatever order they name it.
    for round in 1..=5 {
        let mut addresses: Vec<_> = (0..3).map(|_| fresh_address()).collect();
        let mut wires = Vec::new();
        for _ in 0..4 {
            addresses.rotate_left(1);
            wires.push(world.paid(one.adding(addresses.clone())).wire());
        }
        let sent = wires.iter().enumerate();
        for reply in
            join_all(sent.map(|(number, wire)| world.send_to(&world.servers[number % 2], wire))).await
        {
            reply.assert_ok("the same addresses at once");
        }
        let count: i64 = world.value("SELECT sum(address_count)::bigint FROM qs.queues").await;
        assert_eq!((count, world.count("qs.addresses").await), (3 * round, 1 + 3 * round));
    }
    world.close();
}

#[tokio::test]
async fn a_friendship_token_that_two_friendships_get_at_once_is_ones() {
    let world = World::builder().pushing().tokens(200).patient().start().await;
    world.stock(50).await;
    let (one, two) = (Friendship::new(), Friendship::new());
    for friendship in [&one, &two] {
        world.pay(&friendship.publishing(fresh_stock(), &packages(1))).await.assert_ok("publishing");
    }
    let new: FriendshipToken = fresh_token();
    let (lookup, new_lookup) = (two.token.lookup(), new.lookup());
    let first = "UPDATE qs.friendships SET lookup = $2 WHERE lookup = $1";
    let parameters: [&(dyn ToSql + Sync); 2] = [&lookup.as_slice(), &new_lookup.as_slice()];
    let call = one.rotating(new);
    let reply = beside(&world, first, &parameters, world.pay(&call)).await;
    reply.assert_problem("the second one", ProblemType::MalformedBody);
    world.pay(&one.rotating(fresh_token())).await.assert_ok("it has its own as before");
    world.close();
}

#[tokio::test]
async fn a_client_that_two_users_get_at_once_is_ones() {
    let world = World::builder().pushing().tokens(200).patient().start().await;
    world.stock(50).await;
    let mut alice = world.user("alice").await;
    let wanted = alice.further_device();
    let add = vec![wanted.key_package()];
    let made = alice.device.commit(Commit { add, update: true, ..Default::default() });
    let first =
        "SELECT auth.register_user('bob', $1, 'info', 'tree', 'eid', sha256(''), sha512(''), 'credential',
                                           sha256(''), NULL, NULL)";
    let key = wanted.public_key();
    let parameters: [&(dyn ToSql + Sync); 1] = [&key.as_bytes().as_slice()];
    let call = identity_commit(&alice, &made, &alice.device);
    let reply = beside(&world, first, &parameters, world.pay(&call)).await;
    reply.assert_problem("the second one", ProblemType::NotAllowed);
    alice.device.forget();
    let made = alice.device.commit(Commit { update: true, ..Default::default() });
    world
        .pay(&identity_commit(&alice, &made, &alice.device))
        .await
        .assert_ok("nothing of the other commit is kept");
    world.close();
}

#[tokio::test]
async fn who_asks_for_tokens_while_the_account_is_erased_is_nobody() {
    let world = World::builder().patient().start().await;
    let client = world.client("alice").await;
    let ask = Ask::batch(&world.issuer_key(TokenType::PrivateRistretto255).await, 10);
    let first = "SELECT operator.delete_user('alice')";
    let second = world.ask(0, &client, ask.media_type, &ask.body);
    let reply = beside(&world, first, &[], second).await;
    assert_eq!((reply.status, reply.slug()), (StatusCode::FORBIDDEN, "not-allowed"));
    world.close();
}

#[tokio::test]
async fn an_allowance_that_two_operators_set_at_once_is_the_second_ones() {
    let world = World::builder().patient().start().await;
    let set = async |tokens: i32| {
        let connection = world.cluster.admin().await;
        let sql = "SELECT operator.set_allowance($1, token_type => 2)";
        connection.execute(sql, &[&tokens]).await.expect("an operator may");
    };
    let connection = world.cluster.admin().await;
    connection.batch_execute("BEGIN; SELECT operator.set_allowance(7, token_type => 2)").await.unwrap();
    let committing = async {
        eventually("the other one waits", async || {
            let waiting: i64 = world.value("SELECT count(*) FROM pg_locks WHERE NOT granted").await;
            (waiting > 0).then_some(())
        })
        .await;
        connection.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(set(9), committing);
    assert_eq!(world.value::<i32>("SELECT tokens FROM aas.allowances").await, 9);
    world.close();
}
