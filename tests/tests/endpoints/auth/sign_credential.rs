//! `POST /as/credentials` (AS-2)

use postern_protocol::{
    auth::{CredentialIssued, SignCredential},
    credential::ClientCredential,
    problem::ProblemType,
};
use postern_tests_kit::{Call, Commit, Party, World};
use reqwest::StatusCode;

use super::commit_identity::random_user;
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    let stranger = Some(ProblemType::NotAllowed);
    Valid { stranger, ..Valid::new(asking(&user.device), StatusCode::OK) }
}

pub fn asking(device: &Party) -> Call {
    Call::post("/as/credentials").with(&SignCredential {}).signed_by(&device.key)
}

#[tokio::test]
async fn a_confirmed_client_gets_a_credential_and_a_pending_or_removed_one_gets_none() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_pending_device(&mut alice).await;
    let shown = async || world.look_up(&alice.name).await.clients.len();
    assert_eq!(shown().await, 1, "a client without a credential is not shown");
    world.assert_refuses("a pending client", &asking(&second), ProblemType::NotAllowed).await;
    let refusal = world.pay(&asking(&second)).await.assert_problem("pending", ProblemType::NotAllowed);
    assert!(refusal.detail.unwrap().contains("an update of its own"));
    assert_eq!(shown().await, 1);

    let update = Commit { update: true, ..Default::default() };
    world.commit_identity_by(&mut alice, &mut second, update).await;
    let issued: CredentialIssued = world.pay(&asking(&second)).await.decode();
    let credential = ClientCredential::parse(&issued.credential).unwrap();
    assert_eq!((credential.user, credential.client_key), (alice.name.clone(), second.public_key()));
    let record = world.look_up(&alice.name).await;
    assert!(record.clients.iter().any(|client| client.credential == issued.credential));

    // A removed client's credential is gone from the record at once, and it gets no other (AS-13).
    let removal = Commit { remove: vec![alice.device.public_key()], ..Default::default() };
    world.commit_identity_by(&mut alice, &mut second, removal).await;
    let record = world.look_up(&alice.name).await;
    assert_eq!(record.clients.len(), 1);
    assert_eq!(record.clients[0].credential, issued.credential);
    world.assert_refuses("a removed client", &asking(&alice.device), ProblemType::NotAllowed).await;
    world.close();
}

#[tokio::test]
async fn a_client_that_comes_back_is_pending_again_and_its_old_credential_stays_gone() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let second = world.add_device(&mut alice).await;
    world.pay(&asking(&second)).await.assert_ok("a credential");
    let removal = Commit { remove: vec![second.public_key()], ..Default::default() };
    world.commit_identity(&mut alice, removal).await;
    let again = Commit { add: vec![second.key_package()], ..Default::default() };
    world.commit_identity(&mut alice, again).await;
    assert_eq!(world.look_up(&alice.name).await.clients.len(), 1);
    world.assert_refuses("a client that is back", &asking(&second), ProblemType::NotAllowed).await;
    world.close();
}
