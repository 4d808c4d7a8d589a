//! `POST /qs/key-packages/rotate` (QS-6)

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Friendship, World, fetching, fresh_stock, fresh_token, packages};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let friendship = Friendship::new();
    world.pay(&friendship.publishing(fresh_stock(), &packages(1))).await.assert_ok("publishing");
    Valid {
        stranger: Some(ProblemType::NotFound),
        cut: vec![
            ("friendship_token", ProblemType::MalformedBody),
            ("new_friendship_token", ProblemType::MalformedBody),
        ],
        ..Valid::new(friendship.rotating(fresh_token()), StatusCode::NO_CONTENT)
    }
}

#[tokio::test]
async fn who_has_the_old_token_gets_nothing_and_who_has_the_new_one_gets_the_same_packages() {
    let world = World::start().await;
    let mut friendship = Friendship::new();
    let (phone, laptop) = (packages(2), packages(2));
    let (phones, laptops) = (fresh_stock(), fresh_stock());
    world.pay(&friendship.publishing(phones, &phone)).await.assert_ok("the phone");
    world.pay(&friendship.publishing(laptops, &laptop)).await.assert_ok("the laptop");
    let sealed = "SELECT array_agg(sealed ORDER BY sealed) FROM qs.key_packages";
    let before: Vec<Vec<u8>> = world.value(sealed).await;

    let (old, new) = (friendship.token, fresh_token());
    world.pay(&friendship.rotating(new)).await.assert_ok("rotating");
    assert_eq!(world.value::<Vec<Vec<u8>>>(sealed).await, before, "no package was touched");
    world.assert_refuses("the old token", &fetching(old), ProblemType::NotFound).await;
    world
        .assert_refuses("rotating the old one", &friendship.rotating(fresh_token()), ProblemType::NotFound)
        .await;
    let fetched = world.fetch(new).await;
    assert!(fetched.contains(&phone[0]) && fetched.contains(&laptop[0]));

    // The owner goes on with the new one.
    friendship.token = new;
    assert_eq!(world.remaining(&friendship, phones).await, 1);
    world.pay(&friendship.publishing(phones, &packages(3))).await.assert_ok("publishing");
    assert_eq!(world.remaining(&friendship, phones).await, 3);
    world.close();
}

#[tokio::test]
async fn the_new_token_is_fresh_and_the_signer_the_owner() {
    let world = World::start().await;
    let (one, two) = (Friendship::new(), Friendship::new());
    for friendship in [&one, &two] {
        world.pay(&friendship.publishing(fresh_stock(), &packages(1))).await.assert_ok("publishing");
    }
    for (what, new) in [("its own token", one.token), ("another's token", two.token)] {
        world.assert_refuses(what, &one.rotating(new), ProblemType::MalformedBody).await;
    }
    let friend = Friendship { token: one.token, ..Friendship::new() };
    world.assert_refuses("a friend", &friend.rotating(fresh_token()), ProblemType::NotFound).await;
    world.close();
}
