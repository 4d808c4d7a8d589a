//! `POST /relay/{domain}` (FED-5). What reaches other homeservers is in `tests/tests/federation/pipe.rs`.

use postern_protocol::problem::ProblemType;
use postern_tests_kit::{Call, Capsule, World};
use reqwest::StatusCode;

use super::{BLOCKED, block};
use crate::every_route::Valid;

/// The paths of malformed domains, and of the home domain.
pub fn targets(suffix: &str) -> Vec<(String, ProblemType)> {
    let malformed = ["known", "known.example.", "Known.example", "127.0.0.1"];
    let malformed = malformed.map(|domain| (domain, ProblemType::MalformedRequest));
    let all = malformed.into_iter().chain([("home.example", ProblemType::NotFound)]);
    all.map(|(domain, expected)| (format!("/relay/{domain}{suffix}"), expected)).collect()
}

/// A request for a homeserver that the operator blocked: for any other one the answer would be that one's. Nobody here
/// knows what is sealed.
pub async fn valid(world: &World) -> Valid {
    block(world).await;
    let capsule = Capsule::seal(&world.gateway_keys().await, &Call::get("/as/keys").wire());
    let call = capsule.call(format!("/relay/{BLOCKED}"));
    Valid { targets: targets(""), malformed: None, ..Valid::new(call, StatusCode::FORBIDDEN) }
}
