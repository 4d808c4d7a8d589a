//! Keys that the server publishes: clients take none but those that everyone sees (AAS-7), insist on a root, and refuse
//! what a revoked key signed (AS-2).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use postern_client::{Client, Clock, Error, Event, IssuerError, Options, Seen};
use postern_protocol::{
    PublicKey,
    aas::IssuerDirectory,
    auth::AuthenticationKeys,
    credential::IssuerStatement,
    encoding::Encoding,
    key::SigningKey,
    token::{DIRECTORY_PATH, TOKEN_TYPE},
};
use postern_tests_kit::{Call, TwoFaces, World, eventually, home, now};
use voprf::{Group as _, Ristretto255, VoprfServer};

const HOUR: u64 = 60 * 60;

/// The same device, as it acts so much later.
fn later(client: Client, seconds: u64) -> Client {
    let directory = client.directory().to_owned();
    let server = client.server().to_owned();
    drop(client);
    let clock = Clock::ahead_by(i64::try_from(seconds).unwrap());
    let options = Options { durable: false, clock, ..Options::default() };
    Client::builder(directory).server(server).options(options).open().unwrap()
}

/// The same device, by another way.
fn through(client: Client, server: &str) -> Client {
    let directory = client.directory().to_owned();
    drop(client);
    let options = Options { durable: false, ..Options::default() };
    Client::builder(directory).server(server).options(options).open().unwrap()
}

fn a_token_key() -> String {
    let key = VoprfServer::<Ristretto255>::new_from_seed(&rand::random::<[u8; 32]>(), b"").unwrap();
    URL_SAFE.encode(Ristretto255::serialize_elem(key.get_public_key()))
}

/// The directory with another key.
fn with_own_key() -> impl Fn(Vec<u8>) -> Vec<u8> {
    let own = a_token_key();
    move |body| {
        let mut directory: IssuerDirectory = serde_json::from_slice(&body).unwrap();
        let key = directory.token_keys.iter_mut().find(|key| key.token_type == TOKEN_TYPE).unwrap();
        key.token_key.clone_from(&own);
        serde_json::to_vec(&directory).unwrap()
    }
}

/// The directory with one key more, as good as the others.
fn with_many_keys(body: Vec<u8>) -> Vec<u8> {
    let mut directory: IssuerDirectory = serde_json::from_slice(&body).unwrap();
    let key = directory.token_keys.iter().find(|key| key.token_type == TOKEN_TYPE).unwrap().clone();
    for _ in 0..2 {
        let mut other = key.clone();
        other.token_key = a_token_key();
        directory.token_keys.push(other);
    }
    serde_json::to_vec(&directory).unwrap()
}

/// The AS's keys with one more.
fn with_own_signing_key(body: Vec<u8>) -> Vec<u8> {
    let mut keys: AuthenticationKeys = Encoding::Cbor.decode(&body).unwrap();
    let mut own = keys.keys[0];
    own.public_key = SigningKey::generate().public_key();
    keys.keys.push(own);
    Encoding::Cbor.encode(&keys)
}

fn differ(error: &Error) -> bool {
    matches!(error, Error::Issuer(IssuerError::Differ(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_this_client_sees_is_not_used_and_its_user_is_told() {
    let world = World::builder().start().await;
    let proxy = TwoFaces::of(world.server().address()).await;
    let alice = through(world.person("alice").await, &proxy.url());
    alice.wallet().fetch(1).await.expect("the two faces are one");
    let held = alice.wallet().count().unwrap();
    let ours = alice.directory_digest().unwrap().expect("she has tokens");

    proxy.lie(DIRECTORY_PATH, with_own_key());
    let refused = alice.wallet().fetch(1).await.unwrap_err();
    assert!(differ(&refused), "{refused}");
    assert_eq!(alice.wallet().count().unwrap(), held, "no token of that key");
    let told = alice.pending_events().unwrap();
    let told = told.iter().filter(|(_, event)| matches!(event, Event::KeysDiffer { .. })).count();
    assert_eq!(told, 1);

    // Where everybody is shown the many keys, their number tells.
    proxy.repent();
    proxy.lie_to_all(DIRECTORY_PATH, with_many_keys);
    let refused = alice.wallet().fetch(1).await.unwrap_err();
    assert!(matches!(refused, Error::Issuer(IssuerError::TooManyKeys)), "{refused}");
    proxy.repent();
    alice.wallet().fetch(1).await.expect("it is honest again");

    // A server that lies from the first moment gets no client.
    proxy.lie(DIRECTORY_PATH, with_own_key());
    let home = world.homes.path().join("mallory");
    let refused = Client::register(&home, &proxy.url(), "mallory").await.err().expect("no tokens, no client");
    assert!(differ(&refused), "{refused}");

    // Where the server tells strangers by something else, friends find it out.
    proxy.repent();
    proxy.lie_to_all(DIRECTORY_PATH, with_own_key());
    let bob = world.person("bob").await;
    assert_eq!(bob.compare_directory(&ours).unwrap(), Seen::Same);
    let theirs = later(through(alice, &proxy.url()), 25 * HOUR);
    theirs.wallet().fetch(1).await.expect_err("the server does not know this key");
    let theirs = theirs.directory_digest().unwrap().unwrap();
    assert_ne!(theirs, ours);
    assert_eq!(bob.compare_directory(&theirs).unwrap(), Seen::Split);
}

/// A stranger's request that is repeated on its connection is no stranger's any more: so each try has its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stumbles_before_it_lies_is_found_out_too() {
    let world = World::builder().start().await;
    let proxy = TwoFaces::of(world.server().address()).await;
    let bob = world.person("bob").await;
    let alice = through(world.person("alice").await, &proxy.url());
    alice.wallet().fetch(1).await.expect("the two faces are one");
    alice.look_up(bob.user()).await.expect("the two faces are one");

    proxy.lie(DIRECTORY_PATH, with_own_key());
    for stumbles in [1, 3] {
        proxy.stumble(DIRECTORY_PATH, stumbles);
        let refused = alice.wallet().fetch(1).await.unwrap_err();
        assert!(differ(&refused), "{refused}");
    }
    proxy.repent();
    proxy.lie("/as/keys", with_own_signing_key);
    proxy.stumble("/as/keys", 1);
    let refused = alice.look_up(bob.user()).await.unwrap_err();
    assert!(differ(&refused), "{refused}");
    // One that answers no stranger at all proves nothing, and is believed as little.
    proxy.stumble("/as/keys", usize::MAX);
    alice.look_up(bob.user()).await.expect_err("nobody vouches for these keys");
    proxy.repent();
    proxy.stumble("", 0);
    alice.look_up(bob.user()).await.expect("it is honest again");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_as_that_only_this_client_sees_vouch_for_nobody() {
    let world = World::builder().start().await;
    let proxy = TwoFaces::of(world.server().address()).await;
    let bob = world.person("bob").await;
    let alice = through(world.person("alice").await, &proxy.url());
    alice.look_up(bob.user()).await.expect("the two faces are one");
    proxy.lie("/as/keys", with_own_signing_key);
    let refused = alice.look_up(bob.user()).await.unwrap_err();
    assert!(differ(&refused), "{refused}");
    let told = alice.pending_events().unwrap();
    assert!(told.iter().any(|(_, event)| matches!(event, Event::KeysDiffer { .. })), "{told:?}");
    proxy.repent();
    alice.look_up(bob.user()).await.expect("it is honest again");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_change_while_a_client_compares_them_are_no_split() {
    let world = World::builder().servers(2).start().await;
    let alice = world.person("alice").await;
    let shown = async |path: &str| world.send(&Call::get(path).wire()).await.body;
    let [tokens, keys] = [DIRECTORY_PATH, "/as/keys"];
    let before = (shown(tokens).await, shown(keys).await);
    world.admin.execute("SELECT operator.rotate_issuer_keys(revoke => true)", &[]).await.unwrap();
    world.admin.execute("SELECT operator.rotate_signing_keys('as', revoke => true)", &[]).await.unwrap();
    // The server takes them over while this goes on.
    eventually("she has tokens of the new key", async || {
        let are_new = shown(tokens).await != before.0 && shown(keys).await != before.1;
        let (one, other) = tokio::join!(alice.wallet().fetch(1), alice.look_up(alice.user()));
        for refused in [one.as_ref().err(), other.as_ref().err()].into_iter().flatten() {
            assert!(!matches!(refused, Error::Issuer(_)), "{refused}");
        }
        (are_new && one.is_ok()).then_some(())
    })
    .await;
    assert!(
        !alice.pending_events().unwrap().iter().any(|(_, event)| matches!(event, Event::KeysDiffer { .. }))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_revoked_key_signed_counts_for_nobody_until_its_client_has_another_credential() {
    let world = World::builder().start().await;
    let (alice, bob, group) = world.friends(["alice", "bob"], "quarry").await;
    let seen = |client: &Client| {
        let members = client.group_with_id(&group).members().unwrap();
        members.iter().filter(|member| member.verified).count()
    };
    assert_eq!(seen(&bob), 2);
    assert_eq!(bob.look_up(alice.user()).await.unwrap().clients.len(), 1);
    world.admin.execute("SELECT operator.rotate_signing_keys('as', revoke => true)", &[]).await.unwrap();
    // Bob's next look at the keys makes him doubt everybody, and look again.
    eventually("alice's device is hidden", async || {
        let found = bob.look_up(alice.user()).await;
        found.is_ok_and(|user| user.clients.is_empty()).then_some(())
    })
    .await;
    assert_eq!(seen(&bob), 1, "himself");
    // An old letter or link of hers has no effect; a new one has, once she has another credential.
    alice.forget_the_look().unwrap();
    alice.receive(Duration::ZERO).await.unwrap();
    assert_eq!(bob.look_up(alice.user()).await.unwrap().clients.len(), 1);
    assert_eq!(seen(&bob), 2);
    bob.receive(Duration::ZERO).await.unwrap();
    assert_eq!(alice.look_up(bob.user()).await.unwrap().clients.len(), 1, "he got one by himself");
}

/// Sets the root of the domain, and waits until the server shows it.
async fn set_root(world: &World, key: &str) {
    let shown = async || {
        let keys: AuthenticationKeys = world.send(&Call::get("/as/keys").wire()).await.decode();
        keys.root
    };
    let before = shown().await;
    world.admin.batch_execute(&format!("SELECT operator.set_root_key({key})")).await.unwrap();
    eventually("the server shows it", async || (shown().await != before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_insist_on_a_root_that_they_saw_until_their_user_accepts_another() {
    let world = World::builder().start().await;
    let (alice, bob) = (world.person("alice").await, world.person("bob").await);
    alice.look_up(bob.user()).await.unwrap();
    let root = SigningKey::generate();
    let key: Vec<u8> = world.value("SELECT public_key FROM auth.signing_keys WHERE service = 'as'").await;
    let certificate = IssuerStatement {
        domain: home(),
        issuer_key: PublicKey::try_from(key.as_slice()).unwrap(),
        root_key: root.public_key(),
        not_before: 0,
        not_after: now() + 365 * 24 * HOUR,
    }
    .certify(&root);
    let certify = "SELECT operator.certify_signing_key($1)";
    world.admin.execute(certify, &[&certificate.as_bytes()]).await.unwrap();
    // Credentials from before the root are good no more: clients get others by themselves.
    eventually("bob's device is hidden", async || {
        let found = alice.look_up(bob.user()).await;
        found.is_ok_and(|user| user.clients.is_empty()).then_some(())
    })
    .await;
    bob.forget_the_look().unwrap();
    bob.receive(Duration::ZERO).await.unwrap();
    assert_eq!(alice.look_up(bob.user()).await.unwrap().clients.len(), 1);

    // A server that takes the root away, or shows another, vouches for nobody.
    for other in ["NULL", "sha256('another')"] {
        set_root(&world, other).await;
        let refused = alice.look_up(bob.user()).await.unwrap_err();
        assert!(matches!(refused, Error::Issuer(IssuerError::OtherRoot(_))), "{refused}");
    }
    let told = alice.pending_events().unwrap();
    assert!(told.iter().any(|(_, event)| matches!(event, Event::RootChanged { .. })), "{told:?}");
    // She accepts what is shown next, whatever that is.
    set_root(&world, "NULL").await;
    alice.accept_root(alice.user().domain()).unwrap();
    eventually("there is no root", async || alice.look_up(bob.user()).await.ok()).await;
    assert_eq!(alice.look_up(bob.user()).await.unwrap().clients.len(), 1, "her user decided so");
}
