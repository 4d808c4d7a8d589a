//! People who use the client library.

use std::time::{Duration, Instant};

use postern_client::{Client, Error, Event, Options};
use postern_protocol::ds::GroupId;

use crate::{Group, PATIENCE, Server, World};

impl World {
    /// Somebody new, registered at the first server.
    pub async fn person(&self, name: &str) -> Client {
        self.person_at(self.server(), name).await
    }

    /// The same by another server. The person accepts everybody's requests. The state need not survive the test's own crash.
    pub async fn person_at(&self, server: &Server, name: &str) -> Client {
        let options =
            Options { accept_contacts: true, durable: false, record_deliveries: true, ..Options::default() };
        let registered = Client::builder(self.homes.path().join(name))
            .server(self.url_of(server))
            .options(options)
            .register(name)
            .await;
        registered.unwrap_or_else(|error| panic!("{name} cannot register: {error}"))
    }

    /// A further device of somebody.
    pub async fn device(&self, of: &Client, name: &str) -> Client {
        let home = self.homes.path().join(name);
        let request = Client::builder(&home)
            .server(self.url_of(self.server()))
            .request_link(of.user())
            .expect("it can be asked for");
        let grant = of.approve_link(&request).await.expect("it can be approved");
        let builder = Client::builder(home).accept_contacts(true);
        builder.complete_link(&grant).await.expect("it is a device now")
    }

    /// The group of somebody whose device is in other hands: they come back in its place, as the group's only party here.
    /// The device's own client does nothing in the group any more.
    pub async fn in_place_of(&self, client: &Client, id: &GroupId) -> Group {
        let stolen = client.group_with_id(id).stolen_place().expect("it is in the group");
        let mut member = self.candidate().await;
        member.party.identity = stolen.pseudonym.0.to_vec();
        member.party.key = stolen.leaf;
        member.party.user = stolen.user;
        member.party.generation = stolen.user_key.generation;
        member.party.leaf = member.party.leaf_at(&member.domain, member.address);
        let (domain, server_key) = (self.domain().clone(), self.server_key());
        let mut group =
            Group { id: id.clone(), domain, policy: stolen.policy, server_key, members: vec![member] };
        let current = self.group_info(&group, &group.members[0].party.key).await;
        let made = group.party(0).join_externally(&current, None);
        let call = group.submit_commit(&group.members[0].party.key, &made);
        self.pay(&call).await.assert_ok("coming back in a member's place");
        group.party(0).merge();
        group
    }

    /// Two people in a group that the first one made.
    pub async fn friends(&self, names: [&str; 2], title: &str) -> (Client, Client, GroupId) {
        let (one, other) = (self.person(names[0]).await, self.person(names[1]).await);
        let group = one.create_group(title).await.expect("a group can be made").id().clone();
        befriend(&one, &other, &group).await;
        joined(&other, 1).await;
        (one, other, group)
    }
}

/// The same device, as it acts with these options: it is closed and opened again.
pub fn with(client: Client, options: Options) -> Client {
    let directory = client.directory().to_owned();
    drop(client);
    Client::builder(directory).options(options).open().expect("it was closed")
}

/// Alice has a group with Bob's devices: he was asked, and one device answered.
pub async fn befriend(alice: &Client, bob: &Client, group: &GroupId) {
    alice.group_with_id(group).invite(bob.user()).await.expect("he can be invited");
    let asked = |event: &Event| matches!(event, Event::ContactRequested { .. });
    take_until("he is asked", bob, alice, asked).await;
    let added = |event: &Event| matches!(event, Event::Added { .. });
    take_until("he is added", alice, bob, added).await;
}

/// Takes a client's events until one is wanted. If none comes for some time, the other client tries again what it could not
/// send.
async fn take_until(what: &str, client: &Client, other: &Client, wanted: impl Fn(&Event) -> bool) {
    const USUAL: Duration = Duration::from_secs(10);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.sync_until(USUAL, &wanted).await {
            Ok(events) if events.iter().any(&wanted) => return,
            Ok(_) => {}
            // It loses nothing.
            Err(error) => assert!(error.is_passing(), "{what}: {error}"),
        }
        assert!(Instant::now() < deadline, "{}: it does not come: {what}", client.user());
        let received = other.receive(Duration::ZERO).await;
        assert!(received.as_ref().err().is_none_or(Error::is_passing), "{what}: {received:?}");
    }
}

/// Waits until somebody is in so many more groups.
pub async fn joined(client: &Client, groups: usize) {
    let (mut seen, mut deadline) = (0, Instant::now() + PATIENCE);
    while seen < groups {
        let is_joined = |event: &Event| matches!(event, Event::Joined { .. });
        let left = deadline.saturating_duration_since(Instant::now());
        match client.sync_until(left, is_joined).await {
            Ok(events) => {
                let new = events.iter().filter(|event| is_joined(event)).count();
                // A passing error may have ended it before.
                assert!(new > 0 || !left.is_zero(), "nobody added this device: {events:?}");
                seen += new;
                if new > 0 {
                    deadline = Instant::now() + PATIENCE;
                }
            }
            // It loses nothing.
            Err(error) => assert!(error.is_passing() && !left.is_zero(), "{}: {error}", client.user()),
        }
    }
}
