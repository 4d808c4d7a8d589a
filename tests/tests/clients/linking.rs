//! A new device over a rendezvous (AS-7): it comes about with the code, and with nothing else, whoever is between.

use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc};

use postern_client::{
    Client, ClientBuilder, DeviceState, Error, Event, LinkCode, LinkError, Options, ProfileChange, api::Http,
};
use postern_protocol::{
    Payload, PublicKey,
    encoding::Encoding,
    key::SigningKey,
    rendezvous::{PayloadsReceived, RendezvousNumber},
};
use postern_tests_kit::{BadLine, PATIENCE, World, befriend, binary, eventually, home, http1, joined};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    time::{Duration, timeout},
};

/// The client's own attempts at one request.
const ALL_ATTEMPTS: usize = 4;

const HOUR: u64 = 60 * 60;

fn options() -> Options {
    Options { accept_contacts: true, durable: false, ..Options::default() }
}

fn builder(world: &World, server: &str, name: &str) -> ClientBuilder {
    Client::builder(world.homes.path().join(name)).server(server).options(options())
}

/// The same device after a restart of its program, over this line.
fn restart(client: Client, server: &str) -> Client {
    let directory = client.directory().to_owned();
    drop(client);
    Client::builder(directory).server(server).options(options()).open().unwrap()
}

/// The code with other words.
fn guess(code: &LinkCode) -> LinkCode {
    let text = code.to_string();
    let (number, words) = text.split_once('-').unwrap();
    let words = if words == "river-orange" { "orange-river" } else { "river-orange" };
    format!("{number}-{words}").parse().unwrap()
}

fn number(code: &LinkCode) -> RendezvousNumber {
    code.to_string().split('-').next().unwrap().parse().unwrap()
}

/// Links a device with a code that its user mistypes, guesses, or has right.
async fn link(
    world: &World,
    alice: &Client,
    as_typed: impl Fn(&LinkCode) -> LinkCode,
    name: &str,
) -> [Result<PublicKey, Error>; 2] {
    let offer = alice.offer_link().await.unwrap();
    let code = as_typed(&offer.code().unwrap());
    let laptop = builder(world, world.server().url(), name);
    let (added, linked) = tokio::join!(offer.finish(), laptop.link(&code));
    [added, linked.map(|client| client.client_key())]
}

async fn devices(of: &Client, by: &Client) -> usize {
    by.look_up(of.user()).await.unwrap().clients.len()
}

#[tokio::test]
async fn the_code_makes_a_device_of_the_user_that_contacts_find_and_add() {
    let world = World::builder().start().await;
    let (alice, bob, _) = world.friends(["alice", "bob"], "climbing").await;
    let offer = alice.offer_link().await.unwrap();
    let code = offer.code().unwrap();
    assert!((540..=600).contains(&offer.ends_in()), "{} s", offer.ends_in());
    let laptop = builder(&world, world.server().url(), "laptop");
    let (added, laptop) = tokio::join!(offer.finish(), laptop.link(&code));
    let laptop = laptop.unwrap();
    assert_eq!(added.unwrap(), laptop.client_key());
    assert_eq!(laptop.user(), alice.user());
    assert_eq!(devices(&alice, &bob).await, 2);
    // It comes into the user's groups by itself, and knows the user's contacts.
    joined(&laptop, 1).await;
    let climbing = laptop.group("climbing").unwrap();
    climbing.send("from the laptop").await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "from the laptop");
    let events = bob.sync_until(PATIENCE, said).await.unwrap();
    let of_alice = |event: &Event| match event {
        Event::Message { sender, .. } => sender.user.as_ref() == Some(alice.user()) && sender.verified,
        _ => false,
    };
    assert!(events.iter().any(of_alice), "{events:?}");
    assert!(laptop.contacts().unwrap().iter().any(|contact| contact.user == *bob.user()));
    // The user's friendship was handed over: what the new device publishes can be fetched by contacts.
    let sailing = bob.create_group("sailing").await.unwrap();
    befriend(&bob, &alice, sailing.id()).await;
    for device in [&alice, &laptop] {
        joined(device, 1).await;
    }
    // The devices come into one place of the group. One that moves there misses nothing that somebody says who has not
    // heard of it (DS-4).
    for device in [&alice, &laptop, &alice, &laptop] {
        device.sync(Duration::ZERO).await.unwrap();
    }
    sailing.send("ahoy").await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "ahoy");
    let events = laptop.sync_until(PATIENCE, said).await.unwrap();
    assert!(events.iter().any(said), "{events:?}");
    assert_eq!(world.count("rendezvous.meetings").await, 0, "nothing is left of it (PRIV-3)");
    // It can add others itself.
    let [added, linked] = link(&world, &laptop, LinkCode::clone, "tablet").await;
    assert_eq!(added.unwrap(), linked.unwrap());
    assert_eq!(devices(&alice, &bob).await, 3);
}

#[tokio::test]
async fn a_new_device_goes_on_from_what_the_old_one_saw_of_members_that_are_no_contacts() {
    let world = World::builder().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "climbing").await;
    let named = ProfileChange { display_name: Some("Robert".to_owned()), ..ProfileChange::default() };
    bob.change_profile(&named).await.unwrap();
    let carol = world.person("carol").await;
    befriend(&alice, &carol, &group).await;
    joined(&carol, 1).await;
    // He reads that she was added, or she could not read what he says.
    bob.sync(Duration::ZERO).await.unwrap();
    bob.group_with_id(&group).send("hello").await.unwrap();
    let said = |event: &Event| matches!(event, Event::Message { text, .. } if text == "hello");
    let events = carol.sync_until(PATIENCE, said).await.unwrap();
    assert!(events.iter().any(said), "{events:?}");
    carol.receive(Duration::ZERO).await.unwrap();
    assert!(carol.contacts().unwrap().iter().all(|contact| contact.user != *bob.user()));

    let tablet = builder(&world, world.server().url(), "tablet");
    let request = tablet.request_link(carol.user()).unwrap();
    let grant = carol.approve_link(&request).await.unwrap();
    let seen = carol.known(bob.user()).unwrap().expect("she looked him up");
    // His identity goes on before her new device asks for it.
    let phone = world.device(&bob, "phone").await;
    let tablet = tablet.complete_link(&grant).await.unwrap();
    assert_eq!(tablet.known(bob.user()).unwrap(), Some(seen));
    tablet.look_up(bob.user()).await.unwrap();
    assert_eq!(tablet.profile(bob.user()).unwrap().display_name, "Robert");
    let events = tablet.sync(Duration::ZERO).await.unwrap();
    let added = Event::DeviceAdded { user: bob.user().clone(), device: phone.client_key() };
    assert!(events.contains(&added), "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::DisplayName { .. })), "{events:?}");
}

#[tokio::test]
async fn a_wrong_word_is_noticed_by_both_and_uses_the_code_up() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    let offer = alice.offer_link().await.unwrap();
    let code = offer.code().unwrap();
    let laptop = builder(&world, world.server().url(), "laptop");
    let wrong = guess(&code);
    let (added, linked) = tokio::join!(offer.finish(), laptop.link(&wrong));
    for refused in [added.err(), linked.err()] {
        assert!(matches!(refused, Some(Error::Link(LinkError::WrongCode))), "{refused:?}");
    }
    let again = laptop.link(&code).await.err().unwrap();
    assert!(matches!(again, Error::Link(LinkError::UnknownCode)), "{again}");
    assert_eq!(devices(&alice, &bob).await, 1);
    assert_eq!(world.count("rendezvous.meetings").await, 0);
    // The same directory is as good with another code.
    let [added, linked] = link(&world, &alice, LinkCode::clone, "laptop").await;
    assert_eq!(added.unwrap(), linked.unwrap());
}

#[tokio::test]
async fn who_joins_second_gets_nothing_though_it_has_the_right_code() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let offer = alice.offer_link().await.unwrap();
    let code = offer.code().unwrap();
    // Somebody who knows the number, and takes the place.
    let http = Http::new(world.server().url()).unwrap();
    http.join_rendezvous(number(&code), &SigningKey::generate(), &home()).await.unwrap();
    let laptop = builder(&world, world.server().url(), "laptop");
    let late = laptop.link(&code).await.err().unwrap();
    assert!(matches!(late, Error::Link(LinkError::UsedCode)), "{late}");
    offer.withdraw().await.unwrap();
    let late = laptop.link(&code).await.err().unwrap();
    assert!(matches!(late, Error::Link(LinkError::UnknownCode)), "{late}");
    let other = alice.offer_link().await.unwrap();
    assert_ne!(other.code().unwrap(), code, "words are used once");
}

#[tokio::test]
async fn an_offer_that_was_interrupted_is_gone_on_with_under_the_same_code() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let code = alice.offer_link().await.unwrap().code().unwrap();
    let alice = restart(alice, world.server().url());
    let offer = alice.offer_link().await.unwrap();
    assert_eq!(offer.code().unwrap(), code);
    let laptop = builder(&world, world.server().url(), "laptop");
    let (added, linked) = tokio::join!(offer.finish(), laptop.link(&code));
    assert_eq!(added.unwrap(), linked.unwrap().client_key());
}

/// Changes the payloads that one side of a rendezvous is answered with, after it has had so many.
type Meddling = fn(Vec<Payload>, had: usize) -> Vec<Payload>;

/// A server that meddles with a rendezvous: a proxy that rewrites the answers to one side.
struct Meddler {
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Meddler {
    async fn before(server: SocketAddr, meddling: Meddling) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let had = Arc::new(std::sync::Mutex::new(Vec::new()));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(meddle(client, server, meddling, had.clone()));
            }
        });
        Self { address, accepting }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// All payloads that came through before: for the one that plays them again.
type Had = Arc<std::sync::Mutex<Vec<Payload>>>;

async fn meddle(client: TcpStream, server: SocketAddr, meddling: Meddling, had: Had) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    loop {
        let Some((head, request)) = http1::message(&mut from_client).await? else { return Ok(()) };
        to_server.write_all(&request).await?;
        let Some((_, mut answer)) = http1::message(&mut from_server).await? else { return Ok(()) };
        if head.contains("/receive ") {
            let meddled = |body: Vec<u8>| match Encoding::Cbor.decode::<PayloadsReceived>(&body) {
                Ok(received) if !received.payloads.is_empty() => {
                    let mut had = had.lock().unwrap();
                    let before = had.len();
                    had.extend(received.payloads.clone());
                    let payloads = meddling(received.payloads, before);
                    Encoding::Cbor.encode(&PayloadsReceived { payloads })
                }
                _ => body,
            };
            answer = http1::with_body(&answer, &meddled);
        }
        to_client.write_all(&answer).await?;
    }
}

/// Flips a bit in the middle of the first payload that one side gets after `had`.
fn garble(payloads: Vec<Payload>) -> Vec<Payload> {
    let garbled = |payload: Payload| {
        let mut bytes = payload.into_bytes();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Payload::new(bytes)
    };
    payloads.into_iter().map(garbled).collect()
}

const MEDDLINGS: [(&str, Meddling); 6] =
    [
        ("the first payload is changed", |payloads, had| if had == 0 { garble(payloads) } else { payloads }),
        ("the second payload is changed", |payloads, had| if had == 1 { garble(payloads) } else { payloads }),
        ("the third payload is changed", |payloads, had| if had == 2 { garble(payloads) } else { payloads }),
        ("the first payload is replaced", |payloads, had| {
            if had == 0 { vec![Payload::new(vec![0x41; 65])] } else { payloads }
        }),
        (
            "the second payload is replaced",
            |payloads, had| {
                if had == 1 { vec![Payload::new(vec![7; 32])] } else { payloads }
            },
        ),
        ("a payload is empty", |payloads, had| if had == 1 { vec![Payload::default()] } else { payloads }),
    ];

/// Both sides notice, nothing is handed to anybody else, and the code is used up.
async fn assert_noticed(what: &str, world: &World, urls: [&str; 2], name: &str) {
    let alice = builder(world, world.server().url(), name).register(name).await.unwrap();
    let alice = restart(alice, urls[0]);
    let offer = alice.offer_link().await.unwrap();
    let code = offer.code().unwrap();
    let laptop = builder(world, urls[1], &format!("{name}-laptop"));
    let both = timeout(PATIENCE, async { tokio::join!(offer.finish(), laptop.link(&code)) });
    let (added, linked) = both.await.unwrap_or_else(|_| panic!("{what}: both notice at once"));
    for (side, refused) in [("old", added.err()), ("new", linked.err())] {
        let refused = refused.unwrap_or_else(|| panic!("{what}: the {side} device notices nothing"));
        assert!(matches!(refused, Error::Link(_)), "{what}, the {side} device: {refused}");
    }
    assert_eq!(world.count("rendezvous.meetings").await, 0, "{what}");
    let again = laptop.link(&code).await.err().unwrap();
    assert!(matches!(again, Error::Link(LinkError::UnknownCode)), "{what}: {again}");
    assert_eq!(devices(&alice, &alice).await, 1, "{what}");
}

#[tokio::test]
async fn a_server_that_changes_what_the_two_leave_for_each_other_is_noticed_by_both() {
    let world = World::builder().start().await;
    let direct = world.server().url();
    for (place, (what, meddling)) in MEDDLINGS.into_iter().enumerate() {
        let what_of = |side: &str| format!("{what}, of those for the {side} device");
        let name_of = |side: &str| format!("side-{side}-{place}");
        let meddler = Meddler::before(world.server().address(), meddling).await;
        assert_noticed(&what_of("new"), &world, [direct, &meddler.url()], &name_of("new")).await;
        let meddler = Meddler::before(world.server().address(), meddling).await;
        assert_noticed(&what_of("old"), &world, [&meddler.url(), direct], &name_of("old")).await;
    }
}

#[tokio::test]
async fn a_server_that_plays_payloads_again_or_in_another_order_is_noticed() {
    let world = World::builder().start().await;
    let direct = world.server().url();
    let repeating: Meddling = |payloads, had| {
        // Each comes twice, from the first that is sealed on.
        if had == 0 { payloads } else { payloads.into_iter().flat_map(|one| [one.clone(), one]).collect() }
    };
    let meddler = Meddler::before(world.server().address(), repeating).await;
    let url = meddler.url();
    let alice = world.person("alice").await;
    let offer = alice.offer_link().await.unwrap();
    let code = offer.code().unwrap();
    let laptop = builder(&world, &url, "laptop");
    let (added, linked) = tokio::join!(offer.finish(), laptop.link(&code));
    assert!(matches!(linked.err(), Some(Error::Link(LinkError::Tampered))));
    assert!(matches!(added.err(), Some(Error::Link(_))));
    assert_eq!(devices(&alice, &alice).await, 1);
    // The place that the meddler had is the owner's again.
    drop(meddler);
    let other = world.person("other").await;
    let [added, linked] = link(&world, &other, LinkCode::clone, "others-laptop").await;
    assert_eq!(added.unwrap(), linked.unwrap());
    assert_eq!(direct, world.server().url());
}

#[tokio::test]
async fn a_guest_that_guesses_or_sends_rubbish_gets_one_try_and_nothing() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let http = Http::new(world.server().url()).unwrap();
    let basepoint = [[0x42].as_slice(), &[0x58], &[0x66; 31]].concat();
    for (what, half, confirmation) in [
        ("rubbish", vec![7; 33], vec![7; 32]),
        ("nothing", Vec::new(), Vec::new()),
        ("the half of the wrong side", [[0x41].as_slice(), &basepoint[1..]].concat(), vec![7; 32]),
        ("a half, and a confirmation that is none", basepoint.clone(), vec![7; 32]),
        ("a half, and no confirmation", basepoint.clone(), Vec::new()),
    ] {
        let offer = alice.offer_link().await.unwrap();
        let code = offer.code().unwrap();
        let mallory = SigningKey::generate();
        let guessing = async {
            http.join_rendezvous(number(&code), &mallory, &home()).await.unwrap();
            for (place, payload) in (0..).zip([half, confirmation]) {
                let payload = Payload::new(payload);
                // It may be over by then.
                let _ = http.leave_payload(number(&code), place, payload, &mallory, &home()).await;
            }
            http.receive_payloads(number(&code), 0, 5, &mallory, &home()).await
        };
        let (added, _) = tokio::join!(offer.finish(), guessing);
        assert!(matches!(added, Err(Error::Link(LinkError::WrongCode))), "{what}: {added:?}");
        let gone = http.receive_payloads(number(&code), 0, 0, &mallory, &home()).await;
        assert!(gone.is_err(), "{what}: it is over");
        assert_ne!(alice.offer_link().await.unwrap().code(), Some(code), "{what}");
    }
    assert_eq!(devices(&alice, &alice).await, 1);
}

#[tokio::test]
async fn the_old_device_goes_on_whichever_answer_was_lost() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let mut alice = builder(&world, &line.url(), "alice").register("alice").await.unwrap();
    for (place, (named, spared)) in [
        ("POST /rendezvous ", 0),
        ("/payloads", 0),
        ("/payloads", 1),
        ("/payloads", 2),
        ("/receive", 0),
        ("/receive", 1),
        ("/receive", 2),
        ("/receive", 3),
        ("POST /as/eid/commits", 0),
    ]
    .into_iter()
    .enumerate()
    {
        line.cut_after(named, spared, ALL_ATTEMPTS);
        let offer = match alice.offer_link().await {
            Ok(offer) => offer,
            Err(error) => {
                assert!(named == "POST /rendezvous " && error.is_passing(), "{named}: {error}");
                line.mend();
                alice.offer_link().await.unwrap()
            }
        };
        let code = offer.code().unwrap();
        let laptop = builder(&world, world.server().url(), &format!("laptop-{place}"));
        let old = async {
            match offer.finish().await {
                Ok(added) => added,
                Err(error) => {
                    assert!(error.is_passing(), "{named}, after {spared}: {error}");
                    assert_eq!(line.mend(), ALL_ATTEMPTS, "{named}");
                    alice = restart(alice.clone(), &line.url());
                    let added = alice.offer_link().await.unwrap().finish().await;
                    added.unwrap_or_else(|error| panic!("{named}, after {spared}: {error}"))
                }
            }
        };
        let (added, linked) = tokio::join!(old, laptop.link(&code));
        line.mend();
        let linked = linked.unwrap_or_else(|error| panic!("{named}, after {spared}: {error}"));
        assert_eq!(added, linked.client_key(), "{named}");
    }
    assert_eq!(devices(&alice, &alice).await, 10);
}

#[tokio::test]
async fn the_new_device_goes_on_once_the_two_have_agreed() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let alice = world.person("alice").await;
    let mut devices_of_alice = 1;
    for (place, (named, spared, goes_on)) in [
        ("GET /as/keys", 0, true),
        ("/join", 0, false),
        ("/payloads", 0, false),
        ("/receive", 0, false),
        // From here on there is a secret.
        ("/payloads", 1, true),
        ("/payloads", 2, true),
        ("/payloads", 3, true),
        ("/receive", 1, true),
        ("/receive", 2, true),
        ("POST /aas/token-request", 0, true),
        ("POST /as/credentials", 0, true),
        ("POST /qs/queues ", 0, true),
        ("PUT /as/contact", 0, true),
    ]
    .into_iter()
    .enumerate()
    {
        let offer = alice.offer_link().await.unwrap();
        let code = offer.code().unwrap();
        let laptop = builder(&world, &line.url(), &format!("laptop-{place}"));
        let new = async {
            line.cut_after(named, spared, ALL_ATTEMPTS);
            let first = laptop.link(&code).await;
            assert_eq!(line.mend(), ALL_ATTEMPTS, "{named}, after {spared}");
            let first = first.err().unwrap_or_else(|| panic!("{named}, after {spared}"));
            assert!(first.is_passing(), "{named}, after {spared}: {first}");
            laptop.link(&code).await
        };
        let (linked, added) = if goes_on {
            let (linked, added) = tokio::join!(new, offer.finish());
            (linked, Some(added))
        } else {
            tokio::select! {
                linked = new => (linked, None),
                added = offer.finish() => panic!("{named}, after {spared}: {added:?}"),
            }
        };
        if goes_on {
            let linked = linked.unwrap_or_else(|error| panic!("{named}, after {spared}: {error}"));
            assert_eq!(added.unwrap().unwrap(), linked.client_key());
            devices_of_alice += 1;
        } else {
            let used = linked.err().unwrap();
            assert!(matches!(used, Error::Link(LinkError::UsedCode)), "{named}, after {spared}: {used}");
            alice.offer_link().await.unwrap().withdraw().await.unwrap();
        }
    }
    assert_eq!(devices(&alice, &alice).await, devices_of_alice);
}

#[tokio::test]
async fn a_device_that_was_added_and_never_came_is_removed_again() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let alice = world.person("alice").await;
    let offer = alice.offer_link().await.unwrap();
    let code = offer.code().unwrap();
    let laptop = builder(&world, &line.url(), "laptop");
    let dying = async {
        // It asked to be added, and never hears that it was.
        line.cut_after("/receive", 2, ALL_ATTEMPTS);
        laptop.link(&code).await.err().expect("its line is cut");
        let pass = "UPDATE rendezvous.meetings SET expires = rendezvous.this_minute() - 1";
        world.admin.execute(pass, &[]).await.unwrap();
        world.admin.execute("NOTIFY postern_rendezvous", &[]).await.unwrap();
    };
    let (added, ()) = tokio::join!(timeout(PATIENCE, offer.finish()), dying);
    assert!(matches!(added.unwrap(), Err(Error::Link(LinkError::Over))));
    let states = async |alice: &Client| {
        let devices = alice.devices().await.unwrap();
        devices.iter().map(|device| device.state).collect::<Vec<_>>()
    };
    assert_eq!(states(&alice).await, [DeviceState::Confirmed, DeviceState::Pending]);
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(states(&alice).await.len(), 2, "it may come yet");
    alice.pass_time_for_added_devices(23 * HOUR).unwrap();
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(states(&alice).await.len(), 2, "it has a day");
    alice.pass_time_for_added_devices(2 * HOUR).unwrap();
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(states(&alice).await, [DeviceState::Confirmed]);
    // A device that came stays.
    let [added, linked] = link(&world, &alice, LinkCode::clone, "tablet").await;
    assert_eq!(added.unwrap(), linked.unwrap());
    alice.pass_time_for_added_devices(20 * 24 * HOUR).unwrap();
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(states(&alice).await, [DeviceState::Confirmed, DeviceState::Confirmed]);
}

#[tokio::test]
async fn nobody_who_does_not_come_in_time_gets_in() {
    let world = World::builder().start().await;
    let line = BadLine::to(world.server().address()).await;
    let alice = builder(&world, &line.url(), "alice").register("alice").await.unwrap();
    let offer = alice.offer_link().await.unwrap();
    let code = offer.code().unwrap();
    let over = async {
        eventually("the old device waits", async || {
            line.take_requests().iter().any(|request| request.contains("/receive ")).then_some(())
        })
        .await;
        let pass = "UPDATE rendezvous.meetings SET expires = rendezvous.this_minute() - 1";
        world.admin.execute(pass, &[]).await.unwrap();
        world.admin.execute("NOTIFY postern_rendezvous", &[]).await.unwrap();
        builder(&world, world.server().url(), "laptop").link(&code).await
    };
    let (added, linked) = tokio::join!(timeout(PATIENCE, offer.finish()), over);
    assert!(matches!(added.unwrap(), Err(Error::Link(LinkError::Over))));
    assert!(matches!(linked.err(), Some(Error::Link(LinkError::UnknownCode))));
}

fn command(state: &Path, server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("postern-client"));
    command.env_clear().arg("--state").arg(state).args(["--server", server]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn at_a_terminal_one_device_shows_the_code_and_the_other_takes_it_or_the_picture() {
    let world = World::builder().start().await;
    let alice = world.person("alice").await;
    let (home, url) = (alice.directory().to_owned(), world.server().url());
    drop(alice);
    for (name, json) in [("laptop", false), ("tablet", true)] {
        let arguments: &[&str] = if json { &["--json", "link"] } else { &["link"] };
        let mut old = command(&home, url, arguments).spawn().unwrap();
        let mut lines = BufReader::new(old.stdout.take().unwrap()).lines();
        let shown = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("it shows a code");
        let code = if json {
            let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert!(
                shown["uri"]
                    .as_str()
                    .unwrap()
                    .starts_with(&format!("postern-link:{}@", shown["code"].as_str().unwrap()))
            );
            shown["uri"].as_str().unwrap().to_owned()
        } else {
            shown.split_whitespace().last().unwrap().to_owned()
        };
        let laptop = command(&world.homes.path().join(name), url, &["link", &code]).output().await.unwrap();
        let (out, log) = (String::from_utf8_lossy(&laptop.stdout), String::from_utf8_lossy(&laptop.stderr));
        assert!(laptop.status.success(), "{log}");
        assert!(out.starts_with("alice@"), "{out}");
        let added = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(added.contains("added"), "{added}");
        let ended = timeout(PATIENCE, old.wait_with_output()).await.unwrap().unwrap();
        assert!(ended.status.success());
        let log = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(log.contains("█ ▄▄▄▄▄ █"), !json, "a QR picture for people: {log}");
    }
    // A word that is none costs no try, and a wrong code says what to do.
    let laptop = world.homes.path().join("another");
    let typo = command(&laptop, url, &["link", "305718-rivre-orange"]).output().await.unwrap();
    assert_eq!(typo.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&typo.stderr).contains("\"rivre\" is no word of a code"));
    let unknown = command(&laptop, url, &["link", "100000-river-orange"]).output().await.unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no device waits under this code"));
}
