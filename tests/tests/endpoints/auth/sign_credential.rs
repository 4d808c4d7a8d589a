//! `POST /as/credentials` (AS-2)

use postern_protocol::{
    auth::{CredentialIssued, SignCredential},
    credential::ClientCredential,
    problem::ProblemType,
};
use postern_tests_kit::{Call, Commit, Party, World, identity_commit};
use reqwest::StatusCode;

use super::commit_identity::random_user;
use crate::road::Valid;

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    let stranger = Some(ProblemType::NotAllowed);
    Valid { stranger, ..Valid::new(asking(&user.device), StatusCode::OK) }
}

pub fn asking(device: &Party) -> Call {
    Call::post("/as/credentials").with(&SignCredential {}).signed_by(&device.key)
}

#[tokio::test]
async fn a_client_in_its_users_eid_gets_a_credential_and_a_removed_one_gets_none() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let second = world.add_device(&mut alice).await;
    assert_eq!(
        world.look_up(&alice.name).await.clients.len(),
        1,
        "a client without a credential is not shown"
    );
    let issued: CredentialIssued = world.pay(&asking(&second)).await.decode();
    let credential = ClientCredential::parse(&issued.credential).unwrap();
    assert_eq!((credential.user, credential.client_key), (alice.name.clone(), second.public_key()));
    assert!(
        world.look_up(&alice.name).await.clients.iter().any(|client| client.credential == issued.credential)
    );

    let made = alice.device.commit(Commit { remove: vec![second.public_key()], ..Default::default() });
    world.pay(&identity_commit(&made.commit, &alice.device)).await.assert_ok("removing a client");
    world.assert_refuses("a removed client", &asking(&second), ProblemType::NotAllowed).await;
    assert_eq!(world.look_up(&alice.name).await.clients.len(), 1);
    world.close();
}
