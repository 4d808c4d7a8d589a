//! `POST /qs/key-packages/count` (QS-6)

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Friendship, World, fresh_stock, packages};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let friendship = Friendship::new();
    let stock_id = fresh_stock();
    world.pay(&friendship.publishing(stock_id, &packages(1))).await.assert_ok("publishing");
    Valid {
        stranger: Some(ProblemType::NotFound),
        cut: vec![("friendship_token", ProblemType::MalformedBody), ("stock_id", ProblemType::MalformedBody)],
        ..Valid::new(friendship.counting(stock_id), StatusCode::OK)
    }
}

#[tokio::test]
async fn a_client_learns_how_its_own_stock_shrinks() {
    let world = World::start().await;
    let friendship = Friendship::new();
    let (phone, laptop) = (fresh_stock(), fresh_stock());
    world.pay(&friendship.publishing(phone, &packages(3))).await.assert_ok("the phone");
    world.pay(&friendship.publishing(laptop, &packages(1))).await.assert_ok("the laptop");
    for (phones, laptops) in [(3, 1), (2, 0), (1, 0)] {
        assert_eq!(world.remaining(&friendship, phone).await, phones);
        assert_eq!(world.remaining(&friendship, laptop).await, laptops);
        world.fetch(friendship.token).await;
    }
    assert_eq!(world.remaining(&friendship, fresh_stock()).await, 0, "a client that published nothing");
    let nobody = Friendship::new();
    world.assert_refuses("no friendship", &nobody.counting(phone), ProblemType::NotFound).await;
    world.close();
}
