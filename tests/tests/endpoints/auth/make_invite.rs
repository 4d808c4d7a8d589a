//! `POST /as/invites` (AS-1)

use futures_util::future::join_all;
use postern_protocol::{
    admission::{InviteCode, InviteMade, MakeInvite},
    problem::ProblemType,
};
use postern_tests_kit::{Call, Commit, Party, World, now};
use reqwest::StatusCode;

use super::commit_identity::random_user;
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    world.admin.execute("SELECT operator.set_user_limit('invites_per_user', 100)", &[]).await.unwrap();
    let user = random_user(world).await;
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![("digest", ProblemType::MalformedBody)],
        ..Valid::new(inviting(&InviteCode::generate(), &user.device), StatusCode::CREATED)
    }
}

fn inviting(code: &InviteCode, by: &Party) -> Call {
    Call::post("/as/invites").with(&MakeInvite { digest: code.digest() }).signed_by(&by.key)
}

async fn lets_make(world: &World, invites: i32) {
    let set = "SELECT operator.set_user_limit('invites_per_user', $1)";
    world.admin.execute(set, &[&invites]).await.unwrap();
}

#[tokio::test]
async fn a_user_makes_as_many_invites_as_the_operator_lets_it_in_their_time() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let make = async |code: &InviteCode| world.pay(&inviting(code, &alice.device)).await;
    let codes: Vec<InviteCode> = (0..4).map(|_| InviteCode::generate()).collect();
    let none = inviting(&codes[0], &alice.device);
    world.assert_refuses("nobody makes any at first", &none, ProblemType::TooManyInvites).await;

    lets_make(&world, 2).await;
    let made: InviteMade = make(&codes[0]).await.decode();
    let days = (made.not_after - now()) / (24 * 60 * 60);
    assert!((12..=13).contains(&days), "today is the first of 14 days: {days}");
    let repeat: InviteMade = make(&codes[0]).await.decode();
    assert_eq!(repeat, made, "an answer was lost");
    make(&codes[1]).await.assert_ok("the second");
    let third = inviting(&codes[2], &alice.device);
    world.assert_refuses("the third", &third, ProblemType::TooManyInvites).await;
    assert_eq!(world.count("auth.invites").await, 2);
    // A used or revoked one counts until it expires.
    world.admin.execute("UPDATE auth.invites SET uses = 0", &[]).await.unwrap();
    world.assert_refuses("after they were used", &third, ProblemType::TooManyInvites).await;
    world.admin.execute("UPDATE auth.invites SET expires = expires - 14", &[]).await.unwrap();
    make(&codes[2]).await.assert_ok("after their time");

    // One user may make more than others, or none.
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute("SELECT operator.set_user_invites('Alice', 1)", &[]).await.unwrap();
    let fourth = inviting(&codes[3], &alice.device);
    world.assert_refuses("her own limit", &fourth, ProblemType::TooManyInvites).await;
    operator.execute("SELECT operator.set_user_invites('alice', NULL)", &[]).await.unwrap();
    make(&codes[3]).await.assert_ok("the default again");

    // An invite that another made is not hers.
    let bob = world.user("bob").await;
    let stolen = inviting(&codes[3], &bob.device);
    world.assert_refuses("another's invite", &stolen, ProblemType::TooManyInvites).await;
    world.close();
}

#[tokio::test]
async fn a_user_that_asks_several_servers_at_once_makes_no_more() {
    let world = World::builder().servers(2).tokens(200).patient().start().await;
    lets_make(&world, 3).await;
    let alice = world.user("alice").await;
    let wires: Vec<_> =
        (0..20).map(|_| world.paid(inviting(&InviteCode::generate(), &alice.device)).wire()).collect();
    let sent = wires.iter().enumerate();
    let replies = join_all(sent.map(|(index, wire)| world.send_to(&world.servers[index % 2], wire))).await;
    let made = replies.iter().filter(|reply| reply.status == StatusCode::CREATED).count();
    assert_eq!((made, world.count("auth.invites").await), (3, 3));
    assert!(
        replies
            .iter()
            .all(|reply| reply.status == StatusCode::CREATED || reply.is_problem("too-many-invites"))
    );
    world.close();
}

#[tokio::test]
async fn a_suspended_user_makes_none() {
    let world = World::start().await;
    lets_make(&world, 3).await;
    let alice = world.user("alice").await;
    world.admin.execute("SELECT operator.suspend_user('alice')", &[]).await.unwrap();
    let call = inviting(&InviteCode::generate(), &alice.device);
    world.assert_refuses("a suspended user", &call, ProblemType::AccountSuspended).await;
    world.close();
}

#[tokio::test]
async fn a_pending_client_makes_none_until_it_has_confirmed_itself() {
    let world = World::start().await;
    lets_make(&world, 3).await;
    let mut alice = world.user("alice").await;
    let mut tablet = world.add_pending_device(&mut alice).await;
    let call = inviting(&InviteCode::generate(), &tablet);
    world.assert_refuses("a pending client", &call, ProblemType::NotAllowed).await;

    let update = Commit { update: true, ..Default::default() };
    world.commit_identity_by(&mut alice, &mut tablet, update).await;
    world.pay(&call).await.assert_ok("a confirmed client");
    assert_eq!(world.count("auth.invites").await, 1);
    world.close();
}
