//! `POST /relay/{domain}/token-request` (FED-5). The tokens of other homeservers are in `tests/tests/federation/pipe.rs`.

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Ask, Call, World};
use reqwest::StatusCode;

use super::{BLOCKED, block, relay_request::targets};
use crate::every_route::Valid;

fn asking(ask: &Ask) -> Call {
    Call::post(format!("/relay/{BLOCKED}/token-request")).with_bytes(ask.media_type, ask.body.clone())
}

/// A request for a homeserver that the operator blocked: for any other one the answer would be that one's.
pub async fn valid(world: &World) -> Valid {
    block(world).await;
    let call = asking(&Ask::batch(world.token_key(), 1));
    Valid { targets: targets("/token-request"), ..Valid::new(call, StatusCode::FORBIDDEN) }
}

#[tokio::test]
async fn one_token_buys_so_many_of_another_homeserver_as_the_operator_says() {
    let world = World::start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    block(&world).await;
    for (limit, refused, taken) in [(10, 100, 10), (100, 0, 100), (1, 10, 1)] {
        let sql = "SELECT operator.set_federation_limit('relayed_tokens', $1)";
        operator.execute(sql, &[&limit]).await.expect("the operator may");
        if refused > 0 {
            let call = asking(&Ask::batch(world.token_key(), refused));
            world.assert_refuses(&format!("{refused}"), &call, ProblemType::InvalidTokenRequest).await;
        }
        let call = asking(&Ask::batch(world.token_key(), taken));
        world.assert_refuses(&format!("{taken}"), &call, ProblemType::HomeserverBlocked).await;
    }
    world.close();
}
