//! `POST /rendezvous/{number}/join` (AS-7)

use futures_util::future::join_all;
use postern_protocol::{key::SigningKey, problem::ProblemType};
use postern_tests_kit::World;
use reqwest::StatusCode;

use super::{Meeting, limit, other_rendezvous};
use crate::every_route::Valid;

pub async fn valid(world: &World) -> Valid {
    let meeting = Meeting::open(world).await;
    let call = meeting.joining(&meeting.guest);
    Valid { targets: other_rendezvous("/join"), ..Valid::new(call, StatusCode::NO_CONTENT) }
}

#[tokio::test]
async fn a_rendezvous_has_one_guest_in_its_life() {
    let world = World::builder().servers(2).tokens(200).patient().start().await;
    let meeting = Meeting::open(&world).await;
    // The one that makes it is no guest, and somebody else cannot act for one.
    let own = meeting.joining(&meeting.owner);
    world.assert_refused("the owner", &own.wire(), ProblemType::RendezvousClosed).await;
    let early = meeting.leaving(&meeting.guest, 0, b"hello");
    world.assert_refused("before joining", &early.wire(), ProblemType::NotFound).await;

    // Ten at once, at two servers: one of them is the guest.
    let guests: Vec<_> = (0..10).map(|_| SigningKey::generate()).collect();
    let wires: Vec<_> = guests.iter().map(|guest| meeting.joining(guest).wire()).collect();
    let sent = wires.iter().enumerate();
    let replies = join_all(sent.map(|(index, wire)| world.send_to(&world.servers[index % 2], wire))).await;
    let (come, refused): (Vec<_>, Vec<_>) =
        guests.iter().zip(&replies).partition(|(_, reply)| reply.status.is_success());
    assert_eq!((come.len(), refused.len()), (1, 9));
    for (_, reply) in &refused {
        reply.assert_problem("too late", ProblemType::RendezvousClosed);
    }
    let (guest, _) = come[0];
    world.send(&meeting.joining(guest).wire()).await.assert_ok("the guest again, whose answer was lost");
    let (other, _) = refused[0];
    let call = meeting.leaving(other, 0, b"hello");
    world.assert_refused("one that is not the guest", &call.wire(), ProblemType::NotFound).await;

    // Not even a mistake of ours could change that.
    let change = format!(
        "UPDATE rendezvous.meetings SET guest_key = '\\x{}'",
        hex::encode(other.public_key().as_bytes())
    );
    assert!(world.admin.execute(&change, &[]).await.is_err(), "the database refuses it");
    // When it has ended, its number leads nowhere.
    world.send(&meeting.ending(guest).wire()).await.assert_ok("ending");
    world.assert_refused("afterwards", &meeting.joining(guest).wire(), ProblemType::NotFound).await;
}

#[tokio::test]
async fn attempts_to_join_are_limited_from_one_address_and_in_all() {
    let world = World::start().await;
    limit(&world, "attempts_per_source", 3).await;
    let meeting = Meeting::open(&world).await;
    let guess = async || {
        let nobodys = Meeting {
            number: "100000".parse().unwrap(),
            owner: SigningKey::generate(),
            guest: SigningKey::generate(),
        };
        world.send(&nobodys.joining(&nobodys.guest).wire()).await
    };
    for _ in 0..3 {
        guess().await.assert_problem("a guess", ProblemType::NotFound);
    }
    let refused = guess().await;
    refused.assert_problem("one guess more", ProblemType::TooManyAttempts);
    assert_eq!(refused.header("ratelimit-policy"), "\"hourly\";q=3;w=3600");
    assert!((1..=3600).contains(&refused.header("retry-after").parse::<i32>().unwrap()));
    // It does not matter whether there is a rendezvous.
    let call = meeting.joining(&meeting.guest);
    world.assert_refused("a real one", &call.wire(), ProblemType::TooManyAttempts).await;

    limit(&world, "attempts_per_source", 1000).await;
    limit(&world, "attempts_per_hour", 4).await;
    limit(&world, "new_sources_percent", 0).await;
    guess().await.assert_problem("the fourth in all", ProblemType::NotFound);
    let refused = guess().await;
    refused.assert_problem("the fifth in all", ProblemType::TooManyAttempts);
    assert_eq!(refused.header("ratelimit-policy"), "\"hourly\";q=4;w=3600");
    // Another hour.
    world.admin.execute("UPDATE operator.attempts SET hour = hour - 1", &[]).await.unwrap();
    world.send(&call.wire()).await.assert_ok("the guest");
    world.admin.execute("UPDATE operator.attempts SET hour = hour - 1", &[]).await.unwrap();
    world.admin.execute("SELECT rendezvous.clean_up()", &[]).await.unwrap();
    assert_eq!(world.count("operator.attempts WHERE kind = 'rendezvous'").await, 0);
    world.close();
}
