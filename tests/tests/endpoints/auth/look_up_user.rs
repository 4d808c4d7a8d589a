//! `GET /as/users/{name}` (AS-5)

use postern_protocol::{auth::CredentialIssued, problem::ProblemType};
use postern_tests_kit::{Call, User, World};
use reqwest::StatusCode;

use super::commit_identity::random_user;
use crate::road::Valid;

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    let targets = [
        ("/as/users/nobody-of-this-name@home.example", ProblemType::NotFound),
        ("/as/users/somebody-known@elsewhere.example", ProblemType::ForeignDomain),
        ("/as/users/alice", ProblemType::MalformedRequest),
        ("/as/users/Alice@home.example", ProblemType::MalformedRequest),
        ("/as/users/al%69ce@home.example", ProblemType::NotFound),
        ("/as/users/%ff", ProblemType::MalformedRequest),
        ("/as/users/%00@home.example", ProblemType::MalformedRequest),
        ("/as/users/@", ProblemType::MalformedRequest),
        ("/as/users/alice@home.example@home.example", ProblemType::MalformedRequest),
    ];
    let targets = targets.map(|(target, expected)| (target.to_owned(), expected)).to_vec();
    Valid { targets, ..Valid::new(Call::get(format!("/as/users/{}", user.name)), StatusCode::OK) }
}

#[tokio::test]
async fn anyone_with_a_token_reads_the_whole_history_of_a_users_clients() {
    let world = World::start().await;
    let mut alice = User::new("alice");
    let registration = alice.registration();
    let issued: CredentialIssued = world.send(&registration.wire()).await.decode();
    let sent = registration.fields();
    let field =
        |name: &str| sent.iter().find(|(found, _)| found == name).unwrap().1.as_bytes().unwrap().clone();

    let record = world.look_up(&alice.name).await;
    assert_eq!(record.name, alice.name);
    assert_eq!(record.group_info.as_bytes(), field("group_info"));
    assert_eq!(record.ratchet_tree.as_bytes(), field("ratchet_tree"));
    assert!(record.commits.is_empty());
    assert_eq!(record.clients.len(), 1);
    assert_eq!(record.clients[0].credential, issued.credential);

    world.add_device(&mut alice).await;
    let record = world.look_up(&alice.name).await;
    assert_eq!(record.group_info.as_bytes(), field("group_info"), "the beginning stays what it was");
    assert_eq!(record.commits.len(), 1);
    let escaped = Call::get(format!("/as/users/{}", alice.name.to_string().replace('@', "%40")));
    world.pay(&escaped).await.assert_ok("an escaped name");
    world.close();
}
