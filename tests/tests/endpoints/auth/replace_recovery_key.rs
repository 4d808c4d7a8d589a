//! `PUT /as/account/recovery-key` (AS-8)

use postern_protocol::{
    account::ReplaceRecoveryKey,
    problem::ProblemType,
    second_proof::{Operation, RecoveryKey, SecondProof},
};
use postern_tests_kit::{Call, User, World};
use reqwest::StatusCode;

use super::{commit_identity::random_user, delete_account::deleting};
use crate::every_route::Valid;

pub fn replacing(user: &User, old: &RecoveryKey, new: &RecoveryKey) -> Call {
    let recovery_key = new.verifier();
    let operation = Operation::ReplaceRecoveryKey { recovery_key };
    replacing_with(user, new, SecondProof::recovery(old, &user.name, &operation))
}

pub fn replacing_with(user: &User, new: &RecoveryKey, proof: SecondProof) -> Call {
    let recovery_key = new.verifier();
    Call::put("/as/account/recovery-key")
        .with(&ReplaceRecoveryKey { recovery_key, proof })
        .signed_by(&user.device.key)
}

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    // The same key: a request is valid more than once.
    let call = replacing(&user, &user.recovery_key, &user.recovery_key);
    let stranger = Some(ProblemType::NotAllowed);
    let cut = vec![("recovery_key", ProblemType::MalformedBody)];
    Valid { stranger, cut, ..Valid::new(call, StatusCode::NO_CONTENT) }
}

#[tokio::test]
async fn a_recovery_key_is_replaced_by_its_own_word_and_worth_nothing_then() {
    let world = World::start().await;
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let (old, new) = (&alice.recovery_key, RecoveryKey::generate());
    let wrong = ProblemType::WrongProof;
    for (what, key) in [("the new key's word", &new), ("another user's key", &bob.recovery_key)] {
        world.assert_refuses(what, &replacing(&alice, key, &new), wrong).await;
    }
    let for_bob = User { name: bob.name.clone(), ..User::new("alice") };
    let of_another = Call { signer: Some(alice.device.key.clone()), ..replacing(&for_bob, old, &new) };
    world.assert_refuses("a proof for another account", &of_another, wrong).await;

    world.pay(&replacing(&alice, old, &new)).await.assert_ok("the old key's word");
    world.assert_refuses("the old key again", &replacing(&alice, old, &new), wrong).await;
    world.assert_refuses("deletion by the old key", &deleting(&alice, old), wrong).await;
    world.pay(&deleting(&alice, &new)).await.assert_ok("deletion by the new key");
    world.close();
}

#[tokio::test]
async fn wrong_proofs_are_counted_and_lock_nobody_out() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let wrong = RecoveryKey::generate();
    for _ in 0..30 {
        let reply = world.pay(&replacing(&alice, &wrong, &wrong)).await;
        reply.assert_problem("a wrong proof", ProblemType::WrongProof);
    }
    let operator = world.cluster.connect_as("postern_operator").await;
    let rows = operator.query("SELECT user_name, proofs FROM operator.wrong_proofs()", &[]).await.unwrap();
    let rows: Vec<(String, i32)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [("alice".to_owned(), 30)]);
    let right = replacing(&alice, &alice.recovery_key, &alice.recovery_key);
    world.pay(&right).await.assert_ok("the owner");
    let pass = "UPDATE auth.wrong_proofs SET hour = hour - 26";
    world.admin.execute(pass, &[]).await.unwrap();
    world.admin.execute("SELECT auth.clean_up(0)", &[]).await.unwrap();
    assert_eq!(world.count("auth.wrong_proofs").await, 0);
    world.close();
}
