//! `POST /ds/group-ids` (DS-1)

use std::collections::HashSet;

use reqwest::StatusCode;

use crate::{
    road::Valid,
    world::{Call, World, home},
};

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
    assert_eq!(world.value::<i64>("SELECT count(*) FROM ds.reservations").await, 20);
    world.close();
}
