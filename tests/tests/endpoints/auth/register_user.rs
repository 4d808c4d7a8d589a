//! `POST /as/users` (AS-1)

use ciborium::Value;
use futures_util::future::join_all;
use openmls::prelude::{Ciphersuite, ExtensionType, Extensions, Lifetime};
use postern_protocol::{
    PublicKey,
    auth::{AuthenticationKeys, CredentialIssued, RegisterUser, UserRecord},
    credential::ClientCredential,
    eid::{EidState, Founding, SignedState},
    problem::ProblemType,
};
use postern_tests_kit::{
    Ask, Call, Commit, Party, User, World, device_of, now, over, random_id, registration, registration_of,
};
use rand::RngCore;
use reqwest::StatusCode;

use super::commit_identity::{FILLER, filler};
use crate::every_route::Valid;

const YEAR: u64 = 365 * 24 * 60 * 60;

pub fn valid() -> Valid {
    let user = User::new(&format!("user-{:016x}", rand::rng().next_u64()));
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        cut: vec![("group_info", ProblemType::InvalidMls), ("ratchet_tree", ProblemType::InvalidMls)],
        optional: &["admission"],
        ..Valid::new(user.registration(), StatusCode::CREATED)
    }
}

#[tokio::test]
async fn anyone_registers_a_free_name_and_gets_a_credential_under_a_published_key() {
    let world = World::start().await;
    let user = User::new("alice");
    let issued = world.register(&user).await;
    let keys: AuthenticationKeys = world.send(&Call::get("/as/keys").wire()).await.decode();
    let issuer = ClientCredential::parse(&issued.credential).unwrap().issuer_key;
    assert!(keys.keys.iter().any(|key| key.public_key == issuer));
    let credential = ClientCredential::verify(&issued.credential, issuer, now()).unwrap();
    assert_eq!((credential.user, credential.client_key), (user.name.clone(), user.device.public_key()));
    // The client can use its key at once.
    let tokens = world.tokens(0, &user.device.key, &Ask::batch(world.token_key(), 1)).await;
    let reserve = crate::ds::reserve_group_id::valid().call.paid_with(tokens[0].clone());
    world.send(&reserve.wire()).await.assert_ok("the first token");
    world.close();
}

#[tokio::test]
async fn a_name_or_key_that_is_taken_is_refused_and_the_first_user_stays() {
    let world = World::start().await;
    let alice = User::new("alice");
    let registration = alice.registration();
    world.send(&registration.wire()).await.assert_ok("the first");
    let before = world.look_up(&alice.name).await;
    let impostor = User::new("alice");
    world.assert_refused("a taken name", &impostor.registration().wire(), ProblemType::NameTaken).await;
    let known = with_key_of("bob", &alice);
    world.assert_refused("a known client", &known.registration().wire(), ProblemType::NotAllowed).await;
    let after = world.look_up(&alice.name).await;
    assert_eq!(after.current, before.current);
    assert_eq!(after.clients[0].credential, before.clients[0].credential);
    world.close();
}

/// A user of this name whose first client has the key of another user's.
fn with_key_of(local: &str, other: &User) -> User {
    let mut device = User::new(local).device;
    device.key = other.device.key.clone();
    device.found(&random_id(), Extensions::empty());
    User::with(User::new(local).name, device)
}

#[tokio::test]
async fn a_registration_whose_answer_was_lost_is_answered_again_with_the_same_credential() {
    let world = World::builder().servers(2).tokens(200).patient().start().await;
    let mut alice = User::new("alice");
    let registration = alice.registration();
    let first: CredentialIssued = world.send(&registration.wire()).await.decode();
    let before = world.snapshot().await;
    for call in [&registration, &registration.clone().in_json()] {
        let reply = world.send(&call.wire()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
        assert_eq!(reply.decode::<CredentialIssued>().credential, first.credential);
    }
    world.snapshot().await.assert_same(&before, "a repeat");
    let other_content = with_key_of("alice", &alice).registration();
    world.assert_refused("another EID of the same key", &other_content.wire(), ProblemType::NotAllowed).await;
    let another = alice.registration().signed_by(&User::new("mallory").device.key);
    world.assert_refused("the same request of another key", &another.wire(), ProblemType::NotAllowed).await;

    // It holds as long as the client is one, whatever the user did since.
    world.add_device(&mut alice).await;
    let again: CredentialIssued = world.send(&registration.wire()).await.decode();
    assert_eq!(again.credential, first.credential);

    // At once, at several servers: one account.
    let bob = User::new("bob").registration();
    let wires: Vec<_> = (0..8).map(|_| bob.wire()).collect();
    let sent = wires.iter().enumerate();
    let replies = join_all(sent.map(|(index, wire)| world.send_to(&world.servers[index % 2], wire))).await;
    let mut credentials: Vec<_> =
        replies.iter().map(|reply| reply.decode::<CredentialIssued>().credential).collect();
    credentials.dedup();
    assert_eq!(credentials.len(), 1);
    assert_eq!(world.count("auth.users WHERE name = 'bob'").await, 1);
    world.close();
}

/// Lets months pass in which a client does not ask for a credential: the AS has none of it any more (AS-9).
pub async fn fall_silent(world: &World, client: PublicKey) {
    let sql = "UPDATE auth.clients SET heard = heard - 4 WHERE client_key = $1";
    let key = client.as_bytes().as_slice();
    assert_eq!(world.admin.execute(sql, &[&key]).await.unwrap(), 1);
    let more: bool = world.value("SELECT auth.expire()").await;
    assert!(!more);
    let sql = "SELECT credential IS NULL FROM auth.clients WHERE client_key = $1";
    assert!(world.admin.query_one(sql, &[&key]).await.unwrap().get::<_, bool>(0));
}

/// Makes a silent client one that is not confirmed. It stands for one that was removed, and added again by another one (AS-4).
pub async fn make_pending(world: &World, client: PublicKey) {
    let trigger = |state: &str| format!("ALTER TABLE auth.clients {state} TRIGGER clients_stay_true");
    world.admin.execute(&trigger("DISABLE"), &[]).await.unwrap();
    let sql = "UPDATE auth.clients SET confirmed = false WHERE client_key = $1";
    assert_eq!(world.admin.execute(sql, &[&client.as_bytes().as_slice()]).await.unwrap(), 1);
    world.admin.execute(&trigger("ENABLE ALWAYS"), &[]).await.unwrap();
}

#[tokio::test]
async fn a_registration_is_answered_again_with_another_credential_if_its_client_could_ask_for_one() {
    let world = World::start().await;
    let alice = User::new("alice");
    let (registration, key) = (alice.registration(), alice.device.public_key());
    world.send(&registration.wire()).await.assert_ok("the first");
    fall_silent(&world, key).await;
    let again = world.send(&registration.wire()).await;
    assert_eq!(again.status, StatusCode::CREATED);
    let again: CredentialIssued = again.decode();
    let credential = ClientCredential::parse(&again.credential).unwrap();
    assert_eq!((credential.user, credential.client_key), (alice.name.clone(), key));
    assert_eq!(world.look_up(&alice.name).await.clients[0].credential, again.credential);
    // The client was heard of, and the next repeat gets what is kept.
    let more: bool = world.value("SELECT auth.expire()").await;
    assert!(!more);
    let third: CredentialIssued = world.send(&registration.wire()).await.decode();
    assert_eq!(third.credential, again.credential);

    fall_silent(&world, key).await;
    world.admin.execute("SELECT operator.suspend_user('alice')", &[]).await.unwrap();
    let not_allowed = ProblemType::NotAllowed;
    world.assert_refused("a suspended user's client", &registration.wire(), not_allowed).await;
    world.admin.execute("SELECT operator.unsuspend_user('alice')", &[]).await.unwrap();
    make_pending(&world, key).await;
    world.assert_refused("a pending client", &registration.wire(), not_allowed).await;
    world.close();
}

#[tokio::test]
async fn a_registration_is_answered_again_whatever_limit_was_lowered_since() {
    let world = World::start().await;
    let alice = User::new("alice");
    let mut device = alice.further_device();
    device.extensions.push(ExtensionType::Unknown(FILLER));
    device.leaf = Extensions::from_vec(vec![filler(400)]).unwrap();
    device.found(&random_id(), Extensions::empty());
    let first = registration(&alice.name, &device);
    let issued: CredentialIssued = world.send(&first.wire()).await.decode();
    let limit = "SELECT operator.set_user_limit('max_identity_leaf_bytes', 512)";
    world.admin.execute(limit, &[]).await.unwrap();
    let before = world.snapshot().await;
    let again: CredentialIssued = world.send(&first.wire()).await.decode();
    assert_eq!(again.credential, issued.credential);
    world.snapshot().await.assert_same(&before, "a repeat");
    device.found(&random_id(), Extensions::empty());
    let other = registration(&alice.name, &device);
    world.assert_refused("another EID of its key", &other.wire(), ProblemType::MessageTooLarge).await;
    world.close();
}

/// A stranger learns about a name only by an attempt to register it that would have made it the stranger's own.
#[tokio::test]
async fn what_a_request_that_registers_nothing_hears_does_not_depend_on_who_exists() {
    let world = World::start().await;
    let (alice, mallory) = (world.user("alice").await, world.user("mallory").await);
    // A name that she gave up lately.
    let former = "INSERT INTO auth.former_names (name, user_id, free)
                  SELECT 'formerly', user_id, auth.month(now()) + 12 FROM auth.users WHERE name = 'alice'";
    world.admin.execute(former, &[]).await.unwrap();
    let stranger = Party::new("alice@home.example");
    let broken = |name: &str, field: &str| {
        let valid = User::new(name).registration();
        let (_, value) = valid.fields().into_iter().find(|(found, _)| found == field).unwrap();
        let mut bytes = value.into_bytes().unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        valid.with_field(field, Value::Bytes(bytes))
    };
    type Request<'a> = Box<dyn Fn(&str) -> Call + 'a>;
    let requests: [(&str, Request<'_>); 6] = [
        ("a key that is known", Box::new(|name| with_key_of(name, &mallory).registration())),
        (
            "another key than the EID's",
            Box::new(|name| User::new(name).registration().signed_by(&stranger.key)),
        ),
        ("no signature", Box::new(|name| Call { signer: None, ..User::new(name).registration() })),
        ("another tree", Box::new(|name| broken(name, "ratchet_tree"))),
        ("another GroupInfo", Box::new(|name| broken(name, "group_info"))),
        (
            "another name in the EID",
            Box::new(|name| {
                let name = User::new(name).name;
                registration(&name, &User::new("carol").device)
            }),
        ),
    ];
    for (what, request) in requests {
        let free = world.send(&request("nobody-yet").wire()).await;
        assert!(free.status.is_client_error() && !free.is_problem("name-taken"), "{what}");
        for name in ["alice", "formerly", "postmaster"] {
            let taken = world.send(&request(name).wire()).await;
            assert_eq!((taken.status, taken.text()), (free.status, free.text()), "{what}: {name}");
        }
    }
    assert_eq!(world.count("auth.users WHERE name = 'nobody-yet'").await, 0);
    for name in ["formerly", "postmaster"] {
        let valid = User::new(name).registration();
        world.assert_refused(name, &valid.wire(), ProblemType::NameTaken).await;
    }
    assert_eq!(world.look_up(&alice.name).await.clients.len(), 1);
    world.close();
}

#[tokio::test]
async fn a_registration_is_small_and_its_size_is_looked_at_before_anything_else() {
    let world = World::start().await;
    let alice = User::new("alice");
    // The tree of a group of many, which takes long to validate.
    let mut crowd = User::new("alice").device;
    let add = (0..100).map(|_| Party::new("alice@home.example").key_package()).collect();
    crowd.commit(Commit { add, ..Default::default() });
    crowd.merge();
    let large = registration(&alice.name, &crowd);
    assert!(large.body.len() > RegisterUser::MAX_BYTES);
    let unsigned = Call { signer: None, ..large.clone() };
    for (what, call) in [("a large tree", large), ("a large tree without a signature", unsigned)] {
        world.assert_refused(what, &call.wire(), ProblemType::BodyTooLarge).await;
    }
    assert_eq!(world.count("operator.attempts").await, 3, "the banker's, its network's, and all together");
    assert_eq!(world.value::<i32>("SELECT max(attempts) FROM operator.attempts").await, 1);

    let limit = "SELECT operator.set_user_limit('max_identity_leaf_bytes', 512)";
    world.admin.execute(limit, &[]).await.unwrap();
    let mut device = alice.further_device();
    device.extensions.push(ExtensionType::Unknown(FILLER));
    device.leaf = Extensions::from_vec(vec![filler(400)]).unwrap();
    device.found(&random_id(), Extensions::empty());
    let leaf = registration(&alice.name, &device);
    world.assert_refused("a large leaf", &leaf.wire(), ProblemType::MessageTooLarge).await;
    device.leaf = Extensions::from_vec(vec![filler(10)]).unwrap();
    device.found(&random_id(), Extensions::from_vec(vec![filler(600)]).unwrap());
    let context = registration(&alice.name, &device);
    world.assert_refused("a large GroupContext", &context.wire(), ProblemType::MessageTooLarge).await;
    device.found(&random_id(), Extensions::empty());
    world.send(&registration(&alice.name, &device).wire()).await.assert_ok("a small leaf");
    world.close();
}

#[tokio::test]
async fn names_that_are_not_ours_to_give_are_refused() {
    let world = World::start().await;
    let foreign = "alice@elsewhere.example".parse().unwrap();
    let mut device = device_of(&foreign);
    device.found(&random_id(), Extensions::empty());
    let call = registration(&foreign, &device);
    world.assert_refused("another domain", &call.wire(), ProblemType::ForeignDomain).await;

    let valid = User::new("alice").registration();
    for name in [
        "",
        "alice",
        "@home.example",
        "alice@",
        // With a Cyrillic а; a ligature; a joiner; an emoji; marks that stand on nothing or one on the other.
        "аlice@home.example",
        "aﬁ@home.example",
        "ali\u{200d}ce@home.example",
        "alice😀@home.example",
        "\u{301}alice@home.example",
        "ali\u{301}\u{301}ce@home.example",
        "1דניאל@home.example",
        "ali\u{202e}ce@home.example",
        "-alice@home.example",
        "alice.@home.example",
        "al ice@home.example",
        "alice@home.example ",
        "al\0ice@home.example",
        "alice@@home.example",
        "alice@home.example@home.example",
        "alice@home.example.",
        "alice@localhost",
        "alice@127.0.0.1",
        "alice@höme.example",
        &format!("{}@home.example", "a".repeat(65)),
        &format!("{}@home.example", "語".repeat(65)),
        &format!("{}@home.example", "\u{20000}".repeat(64)),
        &format!("alice@{}", "a.".repeat(200)),
        "alice/../bob@home.example",
        "alice%40home.example",
    ] {
        let wire = valid.with_field("name", Value::from(name)).wire();
        world.assert_refused(name, &wire, ProblemType::MalformedBody).await;
    }
    world.close();
}

/// PRECIS UsernameCaseMapped: every form that a person may type is the one name.
#[tokio::test]
async fn a_name_is_registered_and_found_in_its_one_form() {
    let world = World::start().await;
    for (typed, name) in [
        ("Alice@HOME.example", "alice@home.example"),
        ("ＢＯＢ@home.example", "bob@home.example"),
        ("JOSE\u{301}@home.example", "josé@home.example"),
        ("Иван@home.example", "иван@home.example"),
        ("王小明@home.example", "王小明@home.example"),
        ("ｶﾅ@home.example", "カナ@home.example"),
        ("दिनेश@home.example", "दिनेश@home.example"),
        ("דניאל@home.example", "דניאל@home.example"),
    ] {
        let user = User::new(typed.split_once('@').unwrap().0);
        assert_eq!(user.name.to_string(), name);
        let typed_name = user.registration().with_field("name", Value::from(typed));
        let issued: CredentialIssued = world.send(&typed_name.wire()).await.decode();
        assert_eq!(ClientCredential::parse(&issued.credential).unwrap().user, user.name);
        let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        for path in [encoded(name), encoded(typed), encoded(name).to_uppercase(), user.name.path_segment()] {
            let record: UserRecord = world.pay(&Call::get(format!("/as/users/{path}"))).await.decode();
            assert_eq!(record.name, user.name, "{path}");
        }
    }
    world.close();
}

/// The database refuses the second of two names that look alike, whatever the server lets pass.
#[tokio::test]
async fn no_two_accounts_have_names_that_look_alike() {
    let world = World::start().await;
    for name in ["alice", "scope", "josé", "иван", "paul-1"] {
        world.user(name).await;
    }
    let (count, mut refused) = (world.count("auth.users").await, Vec::new());
    for name in
        ["a.lice", "al1ce", "al-ice", "ALICE", "ѕсоре", "5cope", "jo-sé", "и.ван", "paull", "paul1", "pauli"]
    {
        let call = User::new(name).registration();
        world.assert_refused(name, &call.wire(), ProblemType::NameTaken).await;
        refused.push(name);
    }
    for name in ["jose", "ivan", "alicia", "scopes", "paul-2"] {
        world.user(name).await;
    }
    assert_eq!(world.count("auth.users").await, count + 5);
    for name in refused {
        let insert = "INSERT INTO auth.users (name, recovery_key) VALUES (postern.user_name($1), sha256(''))";
        let error = world.admin.execute(insert, &[&name]).await.expect_err("the database refuses it");
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::UNIQUE_VIOLATION), "{name}");
    }
    for name in ["Alice", "jose\u{301}", "аlice", "", ".a", "a😀"] {
        let error = world
            .admin
            .execute("INSERT INTO auth.users (name, recovery_key) VALUES ($1, sha256(''))", &[&name])
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::CHECK_VIOLATION), "{name}");
    }
}

#[tokio::test]
async fn of_two_that_race_for_names_that_look_alike_one_wins() {
    let world = World::builder().servers(2).patient().start().await;
    for round in 0..5 {
        let names = [format!("ro-und{round}"), format!("r.ound{round}"), format!("r0und{round}")];
        let wires = names.map(|name| User::new(&name).registration().wire());
        let sent = wires.iter().enumerate();
        let replies =
            join_all(sent.map(|(index, wire)| world.send_to(&world.servers[index % 2], wire))).await;
        let registered = replies.iter().filter(|reply| reply.status == StatusCode::CREATED).count();
        assert_eq!(registered, 1);
        assert!(
            replies.iter().all(|reply| reply.status == StatusCode::CREATED || reply.is_problem("name-taken"))
        );
    }
    assert_eq!(world.count("auth.users").await, 5);
    world.close();
}

/// Readers take the first client's word for where the identity began.
#[tokio::test]
async fn a_registration_has_the_state_of_its_beginning_signed_by_its_client() {
    let world = World::start().await;
    let (alice, other) = (User::new("alice"), User::new("alice"));
    let good = registration_of(&alice.name, &alice.device);
    let sign = |user: &User, founding: &Founding, eid: EidState, by: &User| {
        SignedState::sign(&user.name, founding, eid, &good.group_info, &by.device.key)
    };
    let at = |eid: EidState| sign(&alice, &alice.founding, eid, &alice);
    let over_other = SignedState::sign(
        &alice.name,
        &alice.founding,
        alice.eid,
        &other.device.group_info(),
        &alice.device.key,
    );
    for (what, state) in [
        ("a later epoch", at(EidState { epoch: 1, ..alice.eid })),
        ("a later incarnation", at(EidState { incarnation: 1, ..alice.eid })),
        ("another transcript", at(other.eid)),
        ("another founding", sign(&alice, &other.founding, alice.eid, &alice)),
        ("another name", sign(&User::new("bob"), &alice.founding, alice.eid, &alice)),
        ("another client's signature", sign(&alice, &alice.founding, alice.eid, &other)),
        ("another GroupInfo", over_other),
    ] {
        let call = Call::post("/as/users").with(&RegisterUser { state, ..good.clone() });
        let wire = call.signed_by(&alice.device.key).wire();
        world.assert_refused(what, &wire, ProblemType::InvalidMls).await;
    }
    world.send(&alice.registration().wire()).await.assert_ok("the valid one after all");
    world.close();
}

#[tokio::test]
async fn an_eid_that_is_not_this_one_client_in_epoch_0_is_refused() {
    let world = World::start().await;
    let name = User::new("alice").name;
    let found = |party: &mut Party| party.found(&random_id(), Extensions::empty());

    let of_alice = || device_of(&name);
    let mut other_name = User::new("bob").device;
    found(&mut other_name);
    let mut no_name = of_alice();
    no_name.identity.clear();
    found(&mut no_name);
    let mut other_suite = of_alice();
    other_suite.suite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
    found(&mut other_suite);
    let mut expired = of_alice();
    expired.lifetime = over();
    found(&mut expired);
    let mut short = of_alice();
    short.lifetime = Lifetime::new(10 * YEAR - 24 * 60 * 60);
    found(&mut short);
    let mut long = of_alice();
    long.lifetime = Lifetime::new(22 * YEAR);
    found(&mut long);
    let mut grown = User::new("alice").device;
    grown.commit(Commit { add: vec![of_alice().key_package()], ..Default::default() });
    grown.merge();
    let mut later = User::new("alice").device;
    later.commit(Commit { update: true, ..Default::default() });
    later.merge();
    for (what, party) in [
        ("another's name in the leaf", &other_name),
        ("no name in the leaf", &no_name),
        ("another ciphersuite", &other_suite),
        ("a leaf whose lifetime is over", &expired),
        ("a leaf of less than ten years", &short),
        ("a leaf of more than 21 years", &long),
        ("two clients", &grown),
        ("epoch 1", &later),
    ] {
        world.assert_refused(what, &registration(&name, party).wire(), ProblemType::InvalidMls).await;
    }

    let (one, two) = (User::new("alice"), User::new("alice"));
    let valid = one.registration();
    let of = |call: &Call, field: &str| call.fields().into_iter().find(|(name, _)| name == field).unwrap().1;
    let mixed = valid.with_field("ratchet_tree", of(&two.registration(), "ratchet_tree"));
    world.assert_refused("another group's tree", &mixed.wire(), ProblemType::InvalidMls).await;
    let mut tree = of(&valid, "ratchet_tree").into_bytes().unwrap();
    *tree.last_mut().unwrap() ^= 1;
    let forged = valid.with_field("ratchet_tree", Value::Bytes(tree));
    world.assert_refused("a leaf with another signature", &forged.wire(), ProblemType::InvalidMls).await;
    let mut info = of(&valid, "group_info").into_bytes().unwrap();
    *info.last_mut().unwrap() ^= 1;
    let forged = valid.with_field("group_info", Value::Bytes(info));
    world.assert_refused("a GroupInfo with another signature", &forged.wire(), ProblemType::InvalidMls).await;
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("zeros", vec![0; 500]),
        ("a tree", of(&valid, "ratchet_tree").into_bytes().unwrap()),
    ] {
        let wire = valid.with_field("group_info", Value::Bytes(bytes)).wire();
        world.assert_refused(&format!("{what} for a GroupInfo"), &wire, ProblemType::InvalidMls).await;
    }
    world.send(&valid.wire()).await.assert_ok("the valid one after all");
    world.close();
}
