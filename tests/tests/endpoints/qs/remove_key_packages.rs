//! `POST /qs/key-packages/remove` (QS-6)

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Friendship, World, fetching, fresh_stock, packages};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let friendship = Friendship::new();
    let stock_id = fresh_stock();
    world.pay(&friendship.publishing(stock_id, &packages(1))).await.assert_ok("publishing");
    Valid {
        stranger: Some(ProblemType::NotFound),
        cut: vec![("friendship_token", ProblemType::MalformedBody)],
        optional: &["stock_id"],
        ..Valid::new(friendship.removing(Some(stock_id)), StatusCode::NO_CONTENT)
    }
}

#[tokio::test]
async fn a_friendship_whose_owner_was_away_for_long_goes_and_others_stay() {
    let world = World::start().await;
    let (gone, active) = (Friendship::new(), Friendship::new());
    for friendship in [&gone, &active] {
        world.pay(&friendship.publishing(fresh_stock(), &packages(2))).await.assert_ok("publishing");
    }
    // In one transaction: the server's own upkeep sees it afterwards.
    let away = format!(
        "UPDATE qs.friendships SET last_active = last_active - 1000 WHERE lookup = '\\x{}';
         SELECT qs.keep_up()",
        hex::encode(gone.token.lookup())
    );
    world.admin.batch_execute(&away).await.unwrap();
    world.assert_refuses("it is gone", &fetching(gone.token), ProblemType::NotFound).await;
    assert_eq!(world.value::<i64>("SELECT count(*) FROM qs.key_packages").await, 2);
    assert_eq!(world.fetch(active.token).await.len(), 1);
    world.close();
}

#[tokio::test]
async fn a_client_takes_its_stock_with_it_and_the_last_one_takes_the_friendship() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let (phone, laptop) = (fresh_stock(), fresh_stock());
    let phones = packages(2);
    world.pay(&friendship.publishing(phone, &phones)).await.assert_ok("the phone");
    world.pay(&friendship.publishing(laptop, &packages(2))).await.assert_ok("the laptop");
    world.pay(&friendship.removing(Some(laptop))).await.assert_ok("the laptop goes");
    assert_eq!(world.fetch(friendship.token).await, phones[..1]);
    world.pay(&friendship.removing(Some(laptop))).await.assert_ok("what is gone is gone");
    world.pay(&friendship.removing(Some(phone))).await.assert_ok("the phone goes");
    world.assert_refuses("no friendship", &fetching(friendship.token), ProblemType::NotFound).await;
    let rows = "SELECT (SELECT count(*) FROM qs.friendships) + (SELECT count(*) FROM qs.stocks)
                     + (SELECT count(*) FROM qs.key_packages)";
    assert_eq!(world.value::<i64>(rows).await, 0);
    world.close();
}

#[tokio::test]
async fn an_owner_takes_a_friendship_back_whole_and_nobody_else_can() {
    let world = World::start().await;
    let (friendship, other) = (Friendship::new(), Friendship::new());
    for stock in [fresh_stock(), fresh_stock()] {
        world.pay(&friendship.publishing(stock, &packages(2))).await.assert_ok("publishing");
    }
    world.pay(&other.publishing(fresh_stock(), &packages(1))).await.assert_ok("another's");
    let stranger = Friendship { token: friendship.token, ..Friendship::new() };
    world.assert_refuses("a friend", &stranger.removing(None), ProblemType::NotFound).await;
    world.pay(&friendship.removing(None)).await.assert_ok("all of it");
    world.assert_refuses("no friendship", &fetching(friendship.token), ProblemType::NotFound).await;
    world.assert_refuses("nothing is left", &friendship.removing(None), ProblemType::NotFound).await;
    assert_eq!(world.value::<i64>("SELECT count(*) FROM qs.key_packages").await, 1);
    assert_eq!(world.fetch(other.token).await.len(), 1);
    world.close();
}
