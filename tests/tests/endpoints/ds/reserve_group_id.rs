//! `POST /ds/group-ids` (DS-1)

use std::collections::HashSet;

use futures_util::future::join_all;
use postern_protocol::{ds::GroupIdReserved, problem::ProblemType};
use postern_tests_kit::{Call, World, home};
use reqwest::StatusCode;

use crate::every_route::Valid;

pub fn valid() -> Valid {
    Valid::new(Call::post("/ds/group-ids"), StatusCode::CREATED)
}

#[tokio::test]
async fn every_group_id_is_fresh_and_carries_the_domain() {
    let world = World::start().await;
    let mut seen = HashSet::new();
    for _ in 0..20 {
        let id = world.reserve().await;
        assert_eq!(*id.domain(), home());
        assert!(seen.insert(*id.id()));
    }
    let reserved: GroupIdReserved = world.pay(&Call::post("/ds/group-ids")).await.decode();
    assert_eq!(reserved.server_key, world.server_key(), "and comes with what the group has to carry (DS-10)");
    assert_eq!(world.value::<i64>("SELECT count(*) FROM ds.reservations").await, 21);
    world.close();
}

#[tokio::test]
async fn reservations_that_led_to_nothing_and_groups_that_nobody_uses_go() {
    let world = World::start().await;
    let group = world.group(2).await;
    world.reserve().await;
    let clean_up = "SELECT ds.clean_up()";
    let counts = "SELECT (SELECT count(*) FROM ds.reservations) * 100 + (SELECT count(*) FROM ds.groups) * 10
                         + (SELECT count(*) FROM ds.welcome_trees)";
    world.admin.execute(clean_up, &[]).await.unwrap();
    assert_eq!(world.value::<i64>(counts).await, 111, "nothing is old");
    let operator = world.cluster.connect_as("postern_operator").await;
    let seen =
        operator.query("SELECT size_class, last_used, groups FROM operator.groups()", &[]).await.unwrap();
    assert_eq!(seen.iter().map(|row| row.get::<_, i64>("groups")).collect::<Vec<_>>(), [1]);
    operator.execute("SELECT operator.set_group_expiry(abandoned_days => 10)", &[]).await.unwrap();
    let set =
        operator.query_one("SELECT inactive_days, abandoned_days FROM operator.group_expiry()", &[]).await;
    let set = set.unwrap();
    assert_eq!((set.get::<_, i32>(0), set.get::<_, i32>(1)), (90, 10));

    for (what, age, left) in [
        ("ds.reservations SET reserved", 1, 111),
        ("ds.reservations SET reserved", 2, 11),
        ("ds.groups SET last_used", 10, 11),
        ("ds.groups SET last_used", 11, 0),
    ] {
        let sql = format!("UPDATE {what} = (now() AT TIME ZONE 'UTC')::date - {age}");
        world.admin.execute(&sql, &[]).await.unwrap();
        world.admin.execute(clean_up, &[]).await.unwrap();
        assert_eq!(world.value::<i64>(counts).await, left, "{what} {age} days ago");
    }
    let call = group.ask_for_info(&group.members[1].party.key);
    world.assert_refuses("a member of a group that is gone", &call, ProblemType::NotFound).await;
    world.close();
}

#[tokio::test]
async fn as_many_ids_are_reserved_as_the_operator_wants_and_no_more() {
    let world = World::builder().tokens(100).patient().start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let limit = async |number: i32| {
        operator
            .execute("SELECT operator.set_group_limit('max_reservations', $1)", &[&number])
            .await
            .unwrap();
    };
    let counted = "SELECT sum(c.reserved) FROM ds.reservation_counts c";
    let reserved = "SELECT count(*) FROM ds.reservations";

    // Everyone at once, which no one counter could take.
    limit(30).await;
    let call = Call::post("/ds/group-ids");
    let replies = join_all((0..50).map(|_| world.pay(&call))).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status.is_success());
    assert_eq!((accepted.len(), refused.len()), (30, 20));
    for reply in refused {
        reply.assert_problem("beyond the limit", ProblemType::TooManyReservations);
        assert_eq!(reply.headers["retry-after"], "3600");
    }
    assert_eq!((world.value::<i64>(counted).await, world.value::<i64>(reserved).await), (30, 30));
    world.assert_refuses("one more", &call, ProblemType::TooManyReservations).await;

    limit(31).await;
    world.group(1).await;
    assert_eq!(world.value::<i64>(counted).await, 30, "a group's id is reserved no more");
    limit(30).await;
    world.assert_refuses("one more", &call, ProblemType::TooManyReservations).await;
    world.admin.execute("UPDATE ds.reservations SET reserved = reserved - 2", &[]).await.unwrap();
    world.admin.execute("SELECT ds.clean_up()", &[]).await.unwrap();
    assert_eq!((world.value::<i64>(counted).await, world.value::<i64>(reserved).await), (0, 0));
    world.reserve().await;
    world.close();
}
