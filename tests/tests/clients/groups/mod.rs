//! Members' work for a group that nobody asks for (DS-10), the attributes that they keep in it (DS-12), the devices of
//! one user in it, its admins, its end, and a server that hands out other KeyPackages than those of who is invited.

mod accounts;
mod devices;
mod invitations;
mod members;
mod upkeep;

use std::time::Duration;

use postern_client::{Client, Event, Options};
use postern_protocol::ds::GroupId;
use postern_tests_kit::{PATIENCE, World, befriend, joined, with};

fn eager() -> Options {
    Options { accept_contacts: true, durable: false, commit_within: Duration::ZERO, ..Options::default() }
}

/// A client that waits for others to do it.
fn patient() -> Options {
    Options { commit_within: Duration::from_secs(1_000_000_000), ..eager() }
}

async fn receive(client: &Client) {
    client.receive(Duration::ZERO).await.unwrap();
}

/// Alice's group with Bob and Carol, who have seen each other.
async fn group_of_three(world: &World) -> ([Client; 3], GroupId) {
    let people = [world.person("alice").await, world.person("bob").await, world.person("carol").await];
    let group = people[0].create_group("three").await.unwrap().id().clone();
    for friend in &people[1..] {
        befriend(&people[0], friend, &group).await;
        joined(friend, 1).await;
    }
    for client in &people {
        receive(client).await;
    }
    (people, group)
}

fn names(client: &Client, group: &GroupId) -> Vec<String> {
    let members = client.group_with_id(group).members().unwrap();
    let mut names: Vec<_> = members.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

async fn hears(client: &Client, said: &str) {
    let heard = |event: &Event| matches!(event, Event::Message { text, .. } if text == said);
    let events = client.sync_until(PATIENCE, heard).await.unwrap();
    assert!(events.iter().any(heard), "{} hears {said}: {events:?}", client.user());
}
