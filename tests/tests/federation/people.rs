//! People of different domains, by the client library: they find each other, become contacts and know who is who, through
//! their own homeservers (FED-5), whose keys they verify for themselves (FED-1, AAS-7).

use std::time::Duration;

use postern_client::{Client, Error, Event, ForContacts, HomeserverError, Options, ProfileChange, api};
use postern_protocol::{
    aas::IssuerDirectory,
    federation::{DESCRIPTION_PATH, Description, DescriptionError},
    key::SigningKey,
    name::{Domain, UserName},
    problem::ProblemType,
    qs::QueueKind,
    token::{DIRECTORY_PATH, TOKEN_TYPE},
};
use postern_tests_kit::{BadLine, Neighbours, PATIENCE, World, eventually, now, with};

/// Somebody that decides on requests in person.
async fn shy(world: &World, name: &str) -> Client {
    let client = world.person(name).await;
    with(client, Options { durable: false, record_deliveries: true, ..Options::default() })
}

async fn until(client: &Client, what: impl Fn(&Event) -> bool) -> Vec<Event> {
    let events = client.sync_until(PATIENCE, &what).await.unwrap();
    assert!(events.iter().any(what), "{events:?}");
    events
}

fn asks(user: &UserName) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::ContactRequested { user: found, verified: true, .. } if found == user)
}

fn answers(user: &UserName) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::ContactAnswered { user: found } if found == user)
}

async fn operate(world: &World, what: &str) {
    let operator = world.cluster.connect_as("postern_operator").await;
    operator.execute(&format!("SELECT {what}"), &[]).await.expect("the operator may");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_of_two_domains_find_each_other_become_contacts_and_know_who_is_who() {
    let neighbours = Neighbours::builder().start().await;
    let (alice, bob) = (shy(&neighbours[0], "alice").await, shy(&neighbours[1], "bob").await);
    let found = alice.look_up(bob.user()).await.unwrap();
    assert_eq!(found.clients.len(), 1);
    assert_eq!(found.clients[0].client_key, bob.client_key());
    assert_eq!(bob.look_up(alice.user()).await.unwrap().clients[0].client_key, alice.client_key());
    let missing = alice.look_up(&"nobody@b.example".parse().unwrap()).await.unwrap_err();
    assert_eq!(missing.problem(), Some(ProblemType::NotFound), "as the other AS says it: {missing}");
    let (ours, theirs) =
        (alice.safety_number(bob.user()).await.unwrap(), bob.safety_number(alice.user()).await.unwrap());
    assert_eq!(ours.digits(), theirs.digits());
    alice.compare_safety_code(bob.user(), theirs.code()).await.unwrap();
    assert_eq!(alice.audit(bob.user()).await.unwrap().eid, bob.known(bob.user()).unwrap().unwrap().eid);

    // First contact (AS-12), and the profile that contacts see (AS-6).
    let part = ForContacts { display_name: "Bobby".to_owned(), text: String::new() };
    // The beginning of a PNG, and as many bytes as a picture has.
    let picture =
        [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x40\0\0\0\x40\x08\x06\0\0\0\0\0\0\0"[..], &[7; 60_000]]
            .concat();
    let profile = ProfileChange {
        display_name: Some("Bob".to_owned()),
        for_contacts: Some(part),
        picture: Some(picture.clone()),
        ..ProfileChange::default()
    };
    bob.change_profile(&profile).await.unwrap();
    alice.ask_contact(bob.user()).await.unwrap();
    until(&bob, asks(alice.user())).await;
    bob.accept_contact(alice.user()).await.unwrap();
    until(&alice, answers(bob.user())).await;
    alice.look_up(bob.user()).await.unwrap();
    let seen = alice.profile(bob.user()).unwrap();
    assert_eq!(seen.display_name, "Bob");
    assert_eq!(seen.for_contacts.map(|part| part.display_name).as_deref(), Some("Bobby"));
    assert_eq!(alice.picture(bob.user()).await.unwrap(), Some(picture), "through the pipe");

    // KeyPackages are fetched of the other domain, with the friendship; a group of two domains is the DS's matter.
    let packages = async || -> i64 { neighbours[1].count("qs.key_packages").await };
    let before = packages().await;
    let group = alice.create_group("climbing").await.unwrap();
    group.invite(bob.user()).await.unwrap();
    eventually("one of them is handed out", async || {
        alice.sync(Duration::ZERO).await.unwrap();
        (packages().await < before).then_some(())
    })
    .await;

    // Blocked, nothing comes any more (QS-7).
    bob.block_user(alice.user()).await.unwrap();
    let letters = |client: &Client| client.deliveries(QueueKind::Contact).unwrap().len();
    alice.ask_contact(bob.user()).await.unwrap();
    bob.sync(Duration::ZERO).await.unwrap();
    assert!(letters(&bob) > 0);
    assert!(bob.contact_requests().unwrap().is_empty());
    let takers: String =
        neighbours[1].value("SELECT string_agg(domain, ' ') FROM aas.takers WHERE domain IS NOT NULL").await;
    assert_eq!(takers, "a.example", "b.example knows that somebody of a.example asks, and no name");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_is_away_is_told_as_such_and_holds_up_nothing_at_home() {
    let neighbours = Neighbours::builder().bad_lines().start().await;
    let (alice, bob) = (shy(&neighbours[0], "alice").await, shy(&neighbours[1], "bob").await);
    let carol = shy(&neighbours[0], "carol").await;
    alice.ask_contact(bob.user()).await.unwrap();
    until(&bob, asks(alice.user())).await;
    let side = |error: &Error| match error {
        Error::Server(api::Error::Relay { side, problem }) => Some((*side, problem.kind)),
        _ => None,
    };
    neighbours.line(1, 0).set(postern_tests_kit::Weather::Cut);
    let failed = bob.look_up(alice.user()).await.unwrap_err();
    let (found, kind) = side(&failed).unwrap_or_else(|| panic!("{failed}"));
    assert_eq!(found, api::Side::Pipe, "{failed}");
    assert!(matches!(kind, ProblemType::HomeserverUnreachable | ProblemType::HomeserverUnknown), "{failed}");
    // It is not asked again at once, but after longer and longer pauses, and costs nothing meanwhile.
    eventually("it is left alone", async || {
        let tokens = bob.wallet().count().unwrap();
        assert!(side(&bob.look_up(alice.user()).await.unwrap_err()).is_some());
        (bob.wallet().count().unwrap() == tokens).then_some(())
    })
    .await;

    // Letters for others go.
    let dave = shy(&neighbours[1], "dave").await;
    let _ = bob.accept_contact(alice.user()).await;
    bob.ask_contact(dave.user()).await.unwrap();
    until(&dave, asks(bob.user())).await;
    neighbours.line(1, 0).calm();
    eventually("the answer gets through once it is back", async || {
        let _ = bob.accept_contact(alice.user()).await;
        bob.sync(Duration::ZERO).await.unwrap();
        alice.sync(Duration::ZERO).await.unwrap().iter().any(answers(bob.user())).then_some(())
    })
    .await;

    operate(&neighbours[0], "operator.block_domain('b.example')").await;
    let blocked = carol.look_up(bob.user()).await.unwrap_err();
    assert_eq!(side(&blocked), Some((api::Side::Relay, ProblemType::HomeserverBlocked)), "{blocked}");
    operate(&neighbours[0], "operator.drop_domain_rule('b.example')").await;
    operate(&neighbours[1], "operator.block_domain('a.example')").await;
    let blocked = carol.look_up(bob.user()).await.unwrap_err();
    assert_eq!(side(&blocked), Some((api::Side::Gateway, ProblemType::HomeserverBlocked)), "{blocked}");
    neighbours.close();
}

/// The homeserver of a domain lies to its people about another one from now on: this key signs what it shows, and if it
/// is to `swap` them, the keys of the gateway are somebody else's.
async fn lie(home: &World, of: &Domain, key: Option<&SigningKey>, swap: bool) {
    make_up(home, of, |description| {
        if swap {
            let mut keys = description.gateway_keys.as_bytes().to_vec();
            keys[5] ^= 1;
            description.gateway_keys = postern_protocol::Payload::new(keys);
        }
        if let Some(key) = key {
            sign_with(description, key);
        }
    })
    .await;
}

/// A description is as if this key was the homeserver's own.
fn sign_with(description: &mut Description, key: &SigningKey) {
    description.keys[0].public_key = key.public_key();
    description.keys[0].not_after = now() + 1000;
    description.signatures.clear();
    description.sign(key);
}

/// Changes what the homeserver of a domain tells its people of another one.
async fn make_up(home: &World, of: &Domain, change: impl FnOnce(&mut Description)) {
    let sql = "SELECT description FROM federation.homeservers WHERE domain = $1::text";
    let row = home.admin.query_one(sql, &[&of.as_str()]).await.unwrap();
    let mut description = Description::from_json(row.get(0)).unwrap();
    change(&mut description);
    let json = serde_json::to_vec(&description).unwrap();
    let sql = "UPDATE federation.homeservers SET description = $2 WHERE domain = $1::text";
    home.admin.execute(sql, &[&of.as_str(), &json]).await.unwrap();
    home.admin.execute("UPDATE federation.looks SET looked = now() + interval '1 hour'", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_swaps_the_gateways_key_is_found_out() {
    let neighbours = Neighbours::builder().start().await;
    let (home, remote) = (&neighbours[0], &neighbours[1]);
    let (alice, carol, bob) = (shy(home, "alice").await, shy(home, "carol").await, shy(remote, "bob").await);
    alice.look_up(bob.user()).await.unwrap();
    // Nothing vouches for the swapped key.
    lie(home, remote.domain(), None, true).await;
    let refused = carol.look_up(bob.user()).await.unwrap_err();
    assert!(matches!(refused, Error::Homeserver(HomeserverError::Description(..))), "{refused}");
    // Somebody else's word for it is worth nothing to those that know the homeserver.
    lie(home, remote.domain(), Some(&SigningKey::generate()), true).await;
    operate(remote, "operator.rotate_gateway_keys(revoke => true)").await;
    let refused =
        eventually("the key that she knows is gone", async || match alice.look_up(bob.user()).await {
            Err(Error::Homeserver(error)) => Some(error),
            _ => None,
        })
        .await;
    assert!(matches!(refused, HomeserverError::KeysDiffer(_)), "{refused}");
    let told = alice.pending_events().unwrap();
    let differ = |event: &Event| *event == Event::HomeserverKeysDiffer { domain: remote.domain().clone() };
    assert_eq!(told.iter().filter(|(_, event)| differ(event)).count(), 1, "{told:?}");
    // The relay tells the truth again.
    home.admin
        .batch_execute("DELETE FROM federation.homeservers; DELETE FROM federation.looks")
        .await
        .unwrap();
    eventually("she finds him again", async || alice.look_up(bob.user()).await.ok()).await;
    neighbours.close();
}

/// Has a friend elsewhere tell carol, and alice, whose homeserver lied to her, of his homeserver's key. The own homeserver
/// may hide what it says of itself from her.
async fn tell_of_a_relay_that_lied(hides_itself: bool) {
    let neighbours = Neighbours::builder().start().await;
    let (home, remote) = (&neighbours[0], &neighbours[1]);
    let (alice, bob) = (shy(home, "alice").await, shy(remote, "bob").await);
    let url = home.url_of(home.server());
    let line = BadLine::to(url.trim_start_matches("http://").parse().unwrap()).await;
    if hides_itself {
        line.rewrite(DESCRIPTION_PATH, |_| b"{}".to_vec());
    }
    let options = Options { server: Some(line.url()), durable: false, ..Options::default() };
    let alice = with(alice, options);
    // Her homeserver knows the other one, and makes a key up for her.
    let carol = shy(home, "carol").await;
    carol.look_up(bob.user()).await.unwrap();
    lie(home, remote.domain(), Some(&SigningKey::generate()), false).await;
    alice.look_up(bob.user()).await.unwrap();
    // He answers once his device has looked at the own homeserver.
    bob.look_up(alice.user()).await.unwrap();
    bob.sync(Duration::ZERO).await.unwrap();
    let differ = |event: &Event| *event == Event::HomeserverKeysDiffer { domain: remote.domain().clone() };
    for (asker, lied_to) in [(&carol, false), (&alice, true)] {
        asker.ask_contact(bob.user()).await.unwrap();
        until(&bob, asks(asker.user())).await;
        bob.accept_contact(asker.user()).await.unwrap();
        let mut events = until(asker, answers(bob.user())).await;
        events.extend(asker.sync(Duration::ZERO).await.unwrap());
        assert_eq!(events.iter().filter(|event| differ(event)).count(), usize::from(lied_to), "{events:?}");
    }
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn people_elsewhere_tell_of_a_relay_that_lied_from_the_start() {
    tell_of_a_relay_that_lied(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_shows_nothing_of_itself_does_not_mute_what_people_elsewhere_tell() {
    tell_of_a_relay_that_lied(true).await;
}

const HOUR: u64 = 60 * 60;
const AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// Alice, who has to do with somebody elsewhere, on a line on which her homeserver can hide things from her. Time passes for
/// what it hid, and not for the clocks: all that it shows is valid.
struct Hiding {
    neighbours: Neighbours,
    line: BadLine,
    alice: Client,
}

impl Hiding {
    async fn start() -> Self {
        let neighbours = Neighbours::builder().start().await;
        let (home, remote) = (&neighbours[0], &neighbours[1]);
        let (alice, bob) = (shy(home, "alice").await, shy(remote, "bob").await);
        let url = home.url_of(home.server());
        let line = BadLine::to(url.trim_start_matches("http://").parse().unwrap()).await;
        // She can do without others meanwhile.
        alice.wallet().fetch(100).await.expect("the homeserver issues tokens");
        alice.look_up(bob.user()).await.unwrap();
        let options = Options { server: Some(line.url()), durable: false, ..Options::default() };
        let alice = with(alice, options);
        Self { neighbours, line, alice }
    }

    /// Runs the errands so many seconds later. How often they tell that keys whose name ends so are hidden, and shown again.
    async fn told(&self, later: u64, keys_end: &str) -> (usize, usize) {
        self.alice.pass_time_for_hidden_keys(later).unwrap();
        let events = self.alice.sync(Duration::ZERO).await.expect("the errands go on");
        let hides = |event: &&Event| matches!(event, Event::KeysHidden { keys } if keys.ends_with(keys_end));
        let shows = |event: &&Event| matches!(event, Event::KeysShown { keys } if keys.ends_with(keys_end));
        (events.iter().filter(hides).count(), events.iter().filter(shows).count())
    }
}

/// A homeserver gives these requests no answer, or this one, as if it was away or in trouble, and answers all others. What it
/// hides is told of once, after a day, and once when it is shown again.
async fn tell_of_a_homeserver_that_hides(hidden: &str, requests: &str, answer: Option<&[u8]>) {
    let hiding = Hiding::start().await;
    match answer {
        Some(answer) => hiding.line.answer(requests, usize::MAX, answer),
        None => hiding.line.cut(requests, usize::MAX, 0),
    }
    for later in [0, 12 * HOUR] {
        assert_eq!(hiding.told(later, hidden).await, (0, 0), "it may be back soon");
    }
    assert_eq!(hiding.told(12 * HOUR + 60, hidden).await, (1, 0));
    for later in [0, 2 * HOUR] {
        assert_eq!(hiding.told(later, hidden).await, (0, 0), "it was told");
    }
    assert!(hiding.line.mend() > 0, "it was asked for");
    assert_eq!(hiding.told(2 * HOUR, hidden).await, (0, 1));
    assert_eq!(hiding.told(2 * HOUR, hidden).await, (0, 0), "it was told");
    hiding.neighbours.close();
}

const OWN_KEYS: &str = "as a homeserver";
const ISSUER_KEYS: &str = "tokens are issued with";
const ISSUER_KEYS_ELSEWHERE: &str = "as other homeservers see them";

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_is_away_for_its_description_alone_is_told_of_after_a_day() {
    tell_of_a_homeserver_that_hides(OWN_KEYS, &format!("GET {DESCRIPTION_PATH}"), Some(AWAY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_is_away_for_its_issuers_keys_alone_is_told_of_after_a_day() {
    tell_of_a_homeserver_that_hides(ISSUER_KEYS, &format!("GET {DIRECTORY_PATH}"), Some(AWAY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_says_nothing_of_its_issuers_keys_alone_is_told_of_after_a_day() {
    tell_of_a_homeserver_that_hides(ISSUER_KEYS, &format!("GET {DIRECTORY_PATH}"), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_refuses_its_issuers_keys_alone_is_told_of_after_a_day() {
    tell_of_a_homeserver_that_hides(ISSUER_KEYS, &format!("GET {DIRECTORY_PATH}"), Some(NOT_FOUND)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_is_away_for_its_description_and_its_issuers_keys_is_told_of_after_a_day() {
    const BOTH: &str = "GET /.well-known/p";
    for path in [DESCRIPTION_PATH, DIRECTORY_PATH] {
        assert!(format!("GET {path}").starts_with(BOTH));
    }
    tell_of_a_homeserver_that_hides(OWN_KEYS, BOTH, Some(AWAY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_keeps_a_neighbour_from_being_asked_for_the_issuers_keys_is_told_of_after_a_day() {
    // Not the requests for tokens, whose path goes on.
    tell_of_a_homeserver_that_hides(
        ISSUER_KEYS_ELSEWHERE,
        "POST /relay/b.example ",
        Some(&BadLine::refusal(ProblemType::NotAllowed)),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_shows_its_issuers_keys_for_tokens_and_not_to_be_compared_is_told_of_after_a_day() {
    let hiding = Hiding::start().await;
    let later = [(0, (0, 0)), (12 * HOUR, (0, 0)), (12 * HOUR + 60, (1, 0)), (2 * HOUR, (0, 0))];
    for (later, told) in later {
        hiding.line.answer(&format!("GET {DIRECTORY_PATH}"), usize::MAX, AWAY);
        assert_eq!(hiding.told(later, ISSUER_KEYS_ELSEWHERE).await, told);
        assert!(hiding.line.mend() > 0, "they were asked for");
        hiding.alice.wallet().fetch(1).await.expect("it shows them for that");
    }
    assert_eq!(hiding.told(2 * HOUR, ISSUER_KEYS_ELSEWHERE).await, (0, 1));
    hiding.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_hides_the_keys_of_its_as_is_asked_for_them_once_an_hour_and_told_of_after_a_day() {
    let hiding = Hiding::start().await;
    let keys = "credentials are signed with";
    assert_eq!(hiding.told(0, keys).await, (0, 0));
    hiding.alice.forget_the_look().unwrap();
    let later = [(0, true, 0), (60, false, 0), (12 * HOUR, true, 0), (60, false, 0), (12 * HOUR, true, 1)];
    for (later, is_asked, told) in later {
        hiding.line.answer("GET /as/keys", usize::MAX, NOT_FOUND);
        assert_eq!(hiding.told(later, keys).await, (told, 0));
        assert_eq!(hiding.line.mend() > 0, is_asked, "{later} seconds later");
    }
    assert_eq!(hiding.told(2 * HOUR, keys).await, (0, 1));
    hiding.neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_of_another_time_version_or_domain_or_by_an_ended_key_is_good_for_nobody() {
    let neighbours = Neighbours::builder().start().await;
    let (home, remote) = (&neighbours[0], &neighbours[1]);
    let (alice, bob) = (shy(home, "alice").await, shy(remote, "bob").await);
    // Her homeserver knows the other one; she does not.
    shy(home, "carol").await.look_up(bob.user()).await.unwrap();
    let given = "SELECT coalesce(sum(tokens), 0)::bigint FROM aas.issued JOIN aas.takers USING (taker) WHERE domain IS NOT NULL";
    let (before, true_one) =
        (remote.value::<i64>(given).await, "SELECT description FROM federation.homeservers");
    let true_one: Vec<u8> = home.value(true_one).await;
    let cases: [(fn(&mut Description), DescriptionError); 5] = [
        (|it| it.versions = vec![9], DescriptionError::Version),
        (|it| (it.issued, it.expires) = (now() - 2000, now() - 1000), DescriptionError::NotValidNow),
        (|it| (it.issued, it.expires) = (now() + 1000, now() + 2000), DescriptionError::NotValidNow),
        (|it| it.domain = "c.example".parse().unwrap(), DescriptionError::OtherDomain),
        (|it| it.keys[0].not_after = now() - 1, DescriptionError::UnknownKey),
    ];
    for (change, expected) in cases {
        let key = SigningKey::generate();
        make_up(home, remote.domain(), |description| {
            sign_with(description, &key);
            change(description);
            description.signatures.clear();
            description.sign(&key);
        })
        .await;
        let refused = alice.look_up(bob.user()).await.unwrap_err();
        let expected = HomeserverError::Description(remote.domain().clone(), expected);
        assert!(matches!(&refused, Error::Homeserver(found) if *found == expected), "{refused}");
        home.admin.execute("UPDATE federation.homeservers SET description = $1", &[&true_one]).await.unwrap();
    }
    assert_eq!(remote.value::<i64>(given).await, before, "nothing of hers went there");
    alice.look_up(bob.user()).await.expect("the true one is good");
    neighbours.close();
}

/// Alice's homeserver, which shows its people the older of its two issuer keys if it `keeps` the newer one `back`.
async fn shows_keys_to_alice(keeps_back: bool) -> bool {
    let neighbours = Neighbours::builder().start().await;
    let (home, remote) = (&neighbours[0], &neighbours[1]);
    let age = "UPDATE aas.issuer_keys SET not_before = not_before - 10";
    home.admin.execute(age, &[]).await.unwrap();
    let of_type = async || {
        let keys = home.description().await.issuer.token_keys.into_iter();
        keys.filter(|key| key.token_type == TOKEN_TYPE).filter_map(|key| key.not_before).collect::<Vec<_>>()
    };
    let week_ago = now() - 7 * 24 * 60 * 60;
    eventually("the key is older", async || {
        of_type().await.iter().all(|time| *time < week_ago).then_some(())
    })
    .await;
    let (alice, bob) = (shy(home, "alice").await, shy(remote, "bob").await);
    operate(home, "operator.rotate_issuer_keys()").await;
    eventually("there is another key", async || (of_type().await.len() == 2).then_some(())).await;
    let use_it = "UPDATE aas.issuer_keys SET not_before = (now() AT TIME ZONE 'UTC')::date - 3
                   WHERE not_before > (now() AT TIME ZONE 'UTC')::date - 3";
    home.admin.execute(use_it, &[]).await.unwrap();
    eventually("it is in use", async || of_type().await.iter().all(|time| *time < now()).then_some(())).await;

    let url = home.url_of(home.server());
    let line = BadLine::to(url.trim_start_matches("http://").parse().unwrap()).await;
    if keeps_back {
        line.rewrite(DIRECTORY_PATH, |body| {
            let mut directory: IssuerDirectory = serde_json::from_slice(&body).unwrap();
            let oldest = directory.token_keys.iter().filter_map(|key| key.not_before).min();
            directory.token_keys.retain(|key| key.not_before == oldest);
            serde_json::to_vec(&directory).unwrap()
        });
    }
    let options = Options { server: Some(line.url()), durable: false, ..Options::default() };
    let alice = with(alice, options);
    alice.look_up(bob.user()).await.unwrap();
    let events = alice.sync(Duration::ZERO).await.unwrap();
    let differ = |event: &Event| matches!(event, Event::KeysDiffer { keys } if keys.contains("as b.example sees them"));
    let differ = events.iter().any(differ);
    neighbours.close();
    differ
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_tells_whether_people_are_shown_the_issuer_keys_that_all_are() {
    assert!(
        !shows_keys_to_alice(false).await,
        "a device that was shown no new key since they changed asks for it"
    );
    assert!(shows_keys_to_alice(true).await, "strangers who ask from this network are shown no other");
}
