//! `DELETE /as/account` (AS-9)

use ciborium::Value;
use postern_protocol::{
    account::DeleteAccount,
    problem::ProblemType,
    second_proof::{Operation, RecoveryKey, SecondProof},
};
use postern_tests_kit::{Ask, Call, User, World};
use reqwest::{Method, StatusCode};

use super::commit_identity::random_user;
use crate::every_route::Valid;

pub fn deleting(user: &User, key: &RecoveryKey) -> Call {
    let client = user.device.public_key();
    deleting_with(user, SecondProof::recovery(key, &user.name, &Operation::DeleteAccount { client }))
}

pub fn deleting_with(user: &User, proof: SecondProof) -> Call {
    let body = DeleteAccount { proof, rehearsal: false };
    Call::new(Method::DELETE, "/as/account").with(&body).signed_by(&user.device.key)
}

/// The same, and nothing is to be erased.
pub fn rehearsing(call: &Call) -> Call {
    call.with_field("rehearsal", Value::from(true))
}

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    let stranger = Some(ProblemType::NotAllowed);
    Valid { stranger, ..Valid::new(deleting(&user, &user.recovery_key), StatusCode::NO_CONTENT) }
}

#[tokio::test]
async fn an_account_is_deleted_by_a_client_with_the_owners_proof_and_its_name_is_free() {
    let world = World::start().await;
    let (mut alice, bob) = (world.user("alice").await, world.user("bob").await);
    let pending = world.add_pending_device(&mut alice).await;
    let tokens = world.tokens(0, &alice.device.key, &Ask::batch(world.token_key(), 1)).await;
    let valid = deleting(&alice, &alice.recovery_key);
    let by = |key| Call { signer: Some(key), ..valid.clone() };
    let wrong = ProblemType::WrongProof;
    for (what, call, expected) in [
        ("no key of the owner", deleting(&alice, &RecoveryKey::generate()), wrong),
        ("another client's proof", by(bob.device.key.clone()), wrong),
        ("a client that is not confirmed", by(pending.key.clone()), ProblemType::NotAllowed),
        ("without a proof", valid.without("proof"), ProblemType::MalformedBody),
    ] {
        world.assert_refuses(what, &call, expected).await;
    }
    let wrong_one = rehearsing(&deleting(&alice, &RecoveryKey::generate()));
    world.assert_refuses("a rehearsal with another key", &wrong_one, wrong).await;
    let before = world.snapshot().await;
    world.pay(&rehearsing(&valid)).await.assert_ok("a rehearsal");
    world.snapshot().await.assert_same(&before, "a rehearsal");
    assert_eq!(world.count("aas.takers t JOIN auth.users u USING (user_id) WHERE u.name = 'alice'").await, 1);

    // The tokens that the user has are anybody's.
    let call = valid.clone().paid_with(tokens[0].clone());
    world.send(&call.wire()).await.assert_ok("the owner's client");
    for table in ["auth.users", "auth.incarnations", "auth.clients"] {
        assert_eq!(world.count(table).await, 2, "{table}: the banker's and Bob's");
    }
    assert_eq!(world.count("auth.eid_log").await, 0);
    assert_eq!(world.count("aas.takers").await, 1, "the banker");
    world
        .pay(&Call::get(format!("/as/users/{}", alice.name)))
        .await
        .assert_problem("gone", ProblemType::NotFound);
    world.assert_refuses("a repeat", &valid, ProblemType::NotAllowed).await;
    world.register(&User::new("alice")).await;
    world.assert_refuses("the old client", &valid, ProblemType::NotAllowed).await;
    world.close();
}
