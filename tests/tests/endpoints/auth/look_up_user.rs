//! `GET /as/users/{name}` (AS-5)

use postern_protocol::{
    MlsMessage,
    auth::{CredentialIssued, UserRecord},
    name::UserName,
    problem::ProblemType,
};
use postern_tests_kit::{Call, Commit, User, World, identity_commit};
use reqwest::StatusCode;

use super::commit_identity::random_user;
use crate::road::Valid;

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    let targets = [
        ("/as/users/nobody-of-this-name@home.example", ProblemType::NotFound),
        ("/as/users/somebody-known@elsewhere.example", ProblemType::ForeignDomain),
        ("/as/users/alice", ProblemType::MalformedRequest),
        ("/as/users/Nobody-Of-This-Name@Home.Example", ProblemType::NotFound),
        ("/as/users/n%C3%B6body@home.example", ProblemType::NotFound),
        ("/as/users/%D0%B0lice@home.example", ProblemType::MalformedRequest),
        ("/as/users/alice%F0%9F%98%80@home.example", ProblemType::MalformedRequest),
        ("/as/users/al%69ce@home.example", ProblemType::NotFound),
        ("/as/users/%ff", ProblemType::MalformedRequest),
        ("/as/users/%00@home.example", ProblemType::MalformedRequest),
        ("/as/users/@", ProblemType::MalformedRequest),
        ("/as/users/alice@home.example@home.example", ProblemType::MalformedRequest),
    ];
    let mut targets = targets.map(|(target, expected)| (target.to_owned(), expected)).to_vec();
    for query in [
        "after=",
        "after=-1",
        "after=+1",
        "after=1.5",
        "after=all",
        "after=1&after=1",
        &format!("after={}0", u64::MAX),
    ] {
        targets.push((format!("/as/users/{}?{query}", user.name), ProblemType::MalformedRequest));
    }
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

async fn page(world: &World, name: &UserName, after: u64) -> UserRecord {
    world.pay(&Call::get(format!("/as/users/{name}?after={after}"))).await.decode()
}

#[tokio::test]
async fn a_history_is_read_in_pages_of_bounded_size_and_clients_read_all_of_them() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;
    let mut commits = world.look_up(&alice.name).await.commits;
    for _ in 0..40 {
        let made = alice.device.commit(Commit { update: true, ..Default::default() });
        world.pay(&identity_commit(&made.commit, &alice.device)).await.assert_ok("an update");
        alice.device.merge();
        second.receive(&made.commit);
        commits.push(made.commit);
    }
    let limit = "SELECT operator.set_user_limit('history_page_bytes', 16384)";
    world.admin.execute(limit, &[]).await.unwrap();

    let bytes = |commits: &[MlsMessage]| commits.iter().map(|commit| commit.as_bytes().len()).sum::<usize>();
    let first = world.look_up(&alice.name).await;
    let mut read = first.commits.clone();
    let mut pages = vec![first];
    while pages.last().is_some_and(|page| page.more) {
        let next = page(&world, &alice.name, read.len() as u64).await;
        read.extend(next.commits.clone());
        pages.push(next);
    }
    assert_eq!(read, commits);
    assert!(pages.len() >= 2, "{} bytes", bytes(&commits));
    for page in &pages {
        assert!(bytes(&page.commits) <= 16384);
        assert_eq!((&page.group_info, page.clients.len()), (&pages[0].group_info, 1));
    }
    // A reader that was here before gets the rest, and one that is ahead of the server nothing.
    let rest = page(&world, &alice.name, 39).await;
    assert_eq!((rest.commits.as_slice(), rest.more), (&commits[39..], false));
    for after in [41, 42, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
        let none = page(&world, &alice.name, after).await;
        assert_eq!((none.commits.len(), none.more), (0, false), "{after}");
    }
    let bob = world.person("bob").await;
    assert_eq!(bob.look_up(&alice.name).await.unwrap().clients.len(), 1, "the library reads all pages");
    world.close();
}

#[tokio::test]
async fn a_lookup_costs_no_more_whatever_is_stored() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    // No server accepts such commits any more.
    let fill = "DO $$
        BEGIN
            FOR number IN 0..59 LOOP
                INSERT INTO auth.eid_log (user_id, incarnation, epoch, commit)
                SELECT user_id, 0, number, convert_to(repeat('x', 900000), 'UTF8') FROM auth.users WHERE name = 'alice';
                UPDATE auth.incarnations i SET epoch = i.epoch + 1
                  FROM auth.users u WHERE u.name = 'alice' AND i.user_id = u.user_id;
            END LOOP;
        END $$";
    world.admin.batch_execute(fill).await.unwrap();
    for after in [0, 30, 59] {
        let reply = world.pay(&Call::get(format!("/as/users/{}?after={after}", alice.name))).await;
        assert!(reply.body.len() < 1_000_000 * 4 / 3, "{} bytes", reply.body.len());
        let record: UserRecord = reply.decode();
        assert_eq!((record.commits.len(), record.more), (1, after < 59), "{after}");
    }
    world.close();
}
