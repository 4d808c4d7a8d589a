//! `GET /as/users/{name}` (AS-5)

use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn};
use postern_protocol::{
    MlsMessage, Transcript, TreeHash,
    auth::{AuthenticationKeys, CredentialIssued, UserRecord},
    eid::EidState,
    problem::ProblemType,
};
use postern_tests_kit::{Call, Commit, User, World, now, registration_of};
use reqwest::StatusCode;
use tls_codec::Deserialize as _;

use super::commit_identity::random_user;
use crate::every_route::Valid;

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
        "incarnation=",
        "incarnation=-1",
        "incarnation=1&incarnation=1",
        "incarnation=first&after=0",
    ] {
        targets.push((format!("/as/users/{}?{query}", user.name), ProblemType::MalformedRequest));
    }
    Valid { targets, ..Valid::new(Call::get(format!("/as/users/{}", user.name)), StatusCode::OK) }
}

#[tokio::test]
async fn anyone_with_a_token_reads_the_present_of_an_identity_and_its_past_when_asked() {
    let world = World::start().await;
    let mut alice = User::new("alice");
    let registration = alice.registration();
    let issued: CredentialIssued = world.send(&registration.wire()).await.decode();
    let sent = registration_of(&alice.name, &alice.device);

    let record = world.look_up(&alice.name).await;
    assert_eq!((&record.name, record.incarnation, record.ended.len()), (&alice.name, 0, 0));
    assert!(record.begun.is_empty());
    assert_eq!(record.current.group_info, sent.group_info);
    assert_eq!(record.current.ratchet_tree, sent.ratchet_tree);
    assert_eq!(record.current.founding, alice.founding.transcript);
    assert_eq!(record.current.founder, alice.device.public_key());
    assert_eq!(record.current.state, sent.state);
    assert!(record.commits.is_empty() && record.founding.is_none() && !record.more);
    assert_eq!(record.clients.len(), 1);
    assert_eq!(record.clients[0].credential, issued.credential);

    world.add_device(&mut alice).await;
    let record = world.look_up(&alice.name).await;
    assert!(record.commits.is_empty() && record.founding.is_none() && !record.more, "nobody asked for them");
    assert_eq!(record.current.state.eid, alice.eid);
    assert_eq!(record.current.founder, alice.device.public_key(), "the beginning stays what it was");
    assert_eq!(record.current.founding, alice.founding.transcript);
    assert_eq!(record.current.ratchet_tree, alice.device.ratchet_tree());

    // From the founding to the present, as an audit goes.
    let audit = world.look_up_since(&alice.name, 0).await;
    let founding = audit.founding.unwrap();
    assert_eq!((&founding.group_info, &founding.ratchet_tree), (&sent.group_info, &sent.ratchet_tree));
    let transcript = Transcript::founded(None, &founding.group_info, &founding.ratchet_tree);
    let beginning = EidState::founded(0, transcript);
    let end = audit.commits.iter().fold(beginning, |state, commit| state.followed_by(commit.as_bytes()));
    assert_eq!((audit.commits.len(), end), (2, audit.current.state.eid));
    // And from an epoch that is known.
    let news = world.look_up_since(&alice.name, 1).await;
    assert_eq!((news.commits.as_slice(), news.founding, news.more), (&audit.commits[1..], None, false));

    let escaped = Call::get(format!("/as/users/{}", alice.name.to_string().replace('@', "%40")));
    world.pay(&escaped).await.assert_ok("an escaped name");
    world.close();
}

/// AS-10
#[tokio::test]
async fn every_record_has_a_ticket_of_this_minute_for_its_state_under_a_published_key() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let keys: AuthenticationKeys = world.send(&Call::get("/as/keys").wire()).await.decode();
    for _ in 0..2 {
        let before = now();
        let record = world.look_up(&alice.name).await;
        let ticket = record.ticket;
        assert_eq!(ticket.verify(), Ok(()));
        assert!(
            keys.keys.iter().any(|key| key.public_key == ticket.issuer_key && key.is_valid_at(ticket.time))
        );
        assert_eq!((&ticket.user, ticket.eid), (&alice.name, alice.eid));
        assert_eq!(record.current.state.eid, alice.eid);
        assert_eq!(ticket.time % 60, 0);
        assert!(ticket.time + 60 > before && ticket.time <= now(), "{} at {before}", ticket.time);
        assert_eq!(Some(ticket.tree_hash), tree_hash(record.current.group_info.as_bytes()));
        world.commit_identity(&mut alice, Commit { update: true, ..Default::default() }).await;
    }
    world.close();
}

/// The tree hash in a GroupInfo.
fn tree_hash(group_info: &[u8]) -> Option<TreeHash> {
    match MlsMessageIn::tls_deserialize_exact(group_info).ok()?.extract() {
        MlsMessageBodyIn::GroupInfo(info) => TreeHash::try_from(info.group_context().tree_hash()).ok(),
        _ => None,
    }
}

#[tokio::test]
async fn a_history_is_read_in_pages_of_bounded_size() {
    let world = World::start().await;
    world.stock(200).await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;
    let mut commits = world.look_up_since(&alice.name, 0).await.commits;
    for _ in 0..40 {
        let made = world.commit_identity(&mut alice, Commit { update: true, ..Default::default() }).await;
        second.receive(&made.commit);
        commits.push(made.commit);
    }
    let limit = "SELECT operator.set_user_limit('history_page_bytes', 16384)";
    world.admin.execute(limit, &[]).await.unwrap();

    let bytes = |commits: &[MlsMessage]| commits.iter().map(|commit| commit.as_bytes().len()).sum::<usize>();
    let first = world.look_up_since(&alice.name, 0).await;
    let mut read = first.commits.clone();
    let mut pages = vec![first];
    while pages.last().is_some_and(|page| page.more) {
        let next = world.look_up_since(&alice.name, read.len() as u64).await;
        read.extend(next.commits.clone());
        pages.push(next);
    }
    assert_eq!(read, commits);
    assert!(pages.len() >= 2, "{} bytes", bytes(&commits));
    for (number, page) in pages.iter().enumerate() {
        assert!(bytes(&page.commits) <= 16384);
        assert_eq!((&page.current, page.clients.len()), (&pages[0].current, 1));
        assert_eq!(page.founding.is_some(), number == 0, "the beginning comes with the first page");
    }
    // A reader that was here before gets the rest, and one that is ahead of the server nothing.
    let rest = world.look_up_since(&alice.name, 40).await;
    assert_eq!((rest.commits.as_slice(), rest.more), (&commits[40..], false));
    for after in [42, 43, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
        let none = world.look_up_since(&alice.name, after).await;
        assert_eq!((none.commits.len(), none.more), (0, false), "{after}");
    }
    world.close();
}

#[tokio::test]
async fn a_lookup_of_the_present_costs_the_same_whatever_the_past_and_a_page_of_the_past_no_more() {
    let world = World::start().await;
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    // No server accepts such commits any more.
    let fill = "DO $$
        BEGIN
            FOR number IN 0..59 LOOP
                INSERT INTO auth.eid_log (user_id, incarnation, epoch, commit)
                SELECT user_id, 0, number, convert_to(repeat('x', 900000), 'UTF8') FROM auth.users WHERE name = 'alice';
                UPDATE auth.incarnations i
                   SET epoch = i.epoch + 1, current_group_info = i.group_info, current_ratchet_tree = i.ratchet_tree,
                       transcript = auth.following_transcript(i.transcript, convert_to(repeat('x', 900000), 'UTF8'))
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
    let bytes =
        async |user: &User| world.pay(&Call::get(format!("/as/users/{}", user.name))).await.body.len();
    assert!(bytes(&alice).await.abs_diff(bytes(&bob).await) < 32, "names and numbers differ in length");
    world.close();
}

/// A reader that knew an identity before a reset reads how that one ended.
#[tokio::test]
async fn a_record_shows_the_incarnation_that_lives_and_the_beginnings_and_ends_of_those_before() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    world.add_device(&mut alice).await;
    let old = alice.eid;
    let next = User::new("alice");
    let body = registration_of(&next.name, &next.device);
    let transcript = Transcript::founded(Some(&old.transcript), &body.group_info, &body.ratchet_tree);
    let (info, tree, key) = (
        body.group_info.as_bytes(),
        body.ratchet_tree.as_bytes(),
        next.device.public_key().as_bytes().as_slice().to_vec(),
    );
    // As an account reset does it.
    world
        .admin
        .batch_execute("DELETE FROM auth.clients; UPDATE auth.incarnations SET eid = NULL")
        .await
        .expect("it ends");
    let insert = "INSERT INTO auth.incarnations
                      (user_id, incarnation, previous_end, group_info, ratchet_tree, founder, epoch, transcript,
                       tree_hash, state_signature, eid)
                  SELECT user_id, 1, $1, $2, $3, $4, 0, $5, sha256(''), sha512(''), 'eid'
                    FROM auth.users WHERE name = 'alice'";
    let end = old.transcript.as_bytes().as_slice();
    world
        .admin
        .execute(insert, &[&end, &info, &tree, &key, &transcript.as_bytes().as_slice()])
        .await
        .expect("the database computes the same transcript");

    let record = world.look_up(&alice.name).await;
    assert_eq!((record.incarnation, record.ended.as_slice()), (1, [old.transcript].as_slice()));
    assert_eq!(record.begun, [alice.founding.transcript], "whoever knew her knows her by it");
    assert_eq!(record.current.state.eid, EidState::founded(1, transcript));
    assert_eq!(record.ticket.eid, record.current.state.eid);
    let ask = async |query: &str| -> UserRecord {
        world.pay(&Call::get(format!("/as/users/{}?{query}", alice.name))).await.decode()
    };
    let past = ask("incarnation=0&after=0").await;
    assert_eq!((past.incarnation, past.commits.len(), past.more), (1, 2, false));
    let founding = past.founding.expect("an audit begins there");
    let beginning = Transcript::founded(None, &founding.group_info, &founding.ratchet_tree);
    assert_eq!(beginning, alice.founding.transcript);
    let end = past.commits.iter().fold(beginning, |end, commit| end.followed_by(commit.as_bytes()));
    assert_eq!(end, past.ended[0]);
    for (query, commits) in
        [("incarnation=0&after=1", 1), ("incarnation=1&after=0", 0), ("incarnation=2&after=0", 0)]
    {
        let record = ask(query).await;
        assert_eq!((record.incarnation, record.commits.len(), record.more), (1, commits, false), "{query}");
    }
    world.close();
}
