//! `POST /as/account/end` and `POST /as/account/reset` (AS-8)

use ciborium::Value;
use futures_util::future::join_all;
use openmls::prelude::{ExtensionType, Extensions};
use postern_protocol::{
    Transcript,
    account::{EndIdentity, IdentityEnded, ResetAccount},
    auth::CredentialIssued,
    credential::ClientCredential,
    eid::{EidState, Founding, SignedState},
    key::SigningKey,
    name::UserName,
    problem::ProblemType,
    second_proof::{Operation, RecoveryKey, SecondProof},
};
use postern_tests_kit::{Ask, Call, Commit, Party, User, World, device_of, identity_commit, now, random_id};
use reqwest::StatusCode;

use super::{
    commit_identity::{FILLER, filler, random_user},
    publish_contact,
    register_user::{fall_silent, make_pending},
    sign_credential,
};
use crate::every_route::Valid;

fn ending_at(time: u64, name: &UserName, key: &RecoveryKey, client: &SigningKey) -> Call {
    let operation = Operation::EndIdentity { client: client.public_key(), time };
    ending_with(time, name, client, SecondProof::recovery(key, name, &operation))
}

pub fn ending_with(time: u64, name: &UserName, client: &SigningKey, proof: SecondProof) -> Call {
    Call::post("/as/account/end").with(&EndIdentity { name: name.clone(), time, proof }).signed_by(client)
}

fn ending(name: &UserName, key: &RecoveryKey, client: &SigningKey) -> Call {
    ending_at(now(), name, key, client)
}

/// The first client of a user's next identity.
pub fn successor(name: &UserName) -> Party {
    let mut device = device_of(name);
    device.found(&random_id(), Extensions::empty());
    device
}

fn resetting(name: &UserName, key: &RecoveryKey, ended: &IdentityEnded, device: &Party) -> Call {
    resetting_with(name, ended, device, |operation| SecondProof::recovery(key, name, operation))
}

pub fn resetting_with(
    name: &UserName,
    ended: &IdentityEnded,
    device: &Party,
    prove: impl Fn(&Operation<'_>) -> SecondProof,
) -> Call {
    let (group_info, ratchet_tree) = (device.group_info(), device.ratchet_tree());
    let transcript = Transcript::founded(Some(&ended.transcript), &group_info, &ratchet_tree);
    let founding = Founding { founder: device.public_key(), transcript };
    let eid = EidState::founded(ended.incarnation + 1, transcript);
    let state = SignedState::sign(name, &founding, eid, &group_info, &device.key);
    let proof = prove(&Operation::ResetAccount { founding: transcript });
    Call::post("/as/account/reset")
        .with(&ResetAccount { name: name.clone(), group_info, ratchet_tree, state, proof })
        .signed_by(&device.key)
}

async fn end(world: &World, user: &User, client: &SigningKey) -> IdentityEnded {
    world.send(&ending(&user.name, &user.recovery_key, client).wire()).await.decode()
}

pub async fn valid_end(world: &World) -> Valid {
    let user = random_user(world).await;
    let call = ending(&user.name, &user.recovery_key, &SigningKey::generate());
    let stranger = Some(ProblemType::WrongProof);
    Valid { stranger, ..Valid::new(call, StatusCode::OK) }
}

pub async fn valid(world: &World) -> Valid {
    let user = random_user(world).await;
    let device = successor(&user.name);
    let ended = end(world, &user, &device.key).await;
    let call = resetting(&user.name, &user.recovery_key, &ended, &device);
    Valid {
        stranger: Some(ProblemType::NotAllowed),
        // Another beginning than the proof is for.
        cut: vec![("group_info", ProblemType::WrongProof), ("ratchet_tree", ProblemType::WrongProof)],
        ..Valid::new(call, StatusCode::CREATED)
    }
}

#[tokio::test]
async fn a_wrong_proof_for_a_name_that_nobody_has_is_answered_and_counted_like_one_for_a_users() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let nobody = User::new("nobody-at-all");
    for (rows, user) in [&alice, &nobody].into_iter().enumerate() {
        for _ in 0..3 {
            let call = ending(&user.name, &RecoveryKey::generate(), &SigningKey::generate());
            world.send(&call.wire()).await.assert_problem("a wrong proof", ProblemType::WrongProof);
        }
        let counted = "auth.wrong_proofs WHERE proofs = 3";
        assert_eq!(world.count(counted).await, rows as i64 + 1, "{}", user.name);
    }
    let shown = world.admin.query("SELECT user_name FROM operator.wrong_proofs()", &[]).await.unwrap();
    assert_eq!(shown.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["alice"]);
    world.close();
}

#[tokio::test]
async fn a_user_who_lost_all_clients_begins_anew_chained_to_the_end_and_no_old_client_is_left() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let second = world.add_device(&mut alice).await;
    let contact = publish_contact::contact(alice.name.domain(), &second.key);
    world.pay(&publish_contact::publishing(&contact, &second.key)).await.assert_ok("a contact");
    let device = successor(&alice.name);
    let ended = end(&world, &alice, &device.key).await;
    assert_eq!(ended, IdentityEnded { incarnation: 0, transcript: alice.eid.transcript });

    // In between nobody is there, nobody can come back, and the name is not free.
    assert_eq!(
        world.count("auth.clients c JOIN auth.users u USING (user_id) WHERE u.name = 'alice'").await,
        0
    );
    let lookup = Call::get(format!("/as/users/{}", alice.name));
    let problem = world.pay(&lookup).await.assert_problem("no identity lives", ProblemType::NotFound);
    assert!(problem.identity_ended, "the user is not unknown");
    let made = alice.device.commit(Commit { update: true, ..Default::default() });
    let commit = identity_commit(&alice, &made, &alice.device);
    world.assert_refuses("an old client's commit", &commit, ProblemType::NotAllowed).await;
    let registration = User::new("alice").registration().wire();
    world.assert_refused("registering the name", &registration, ProblemType::NameTaken).await;
    // The answer was lost, or it is tried again on another device.
    assert_eq!(end(&world, &alice, &device.key).await, ended);
    assert_eq!(end(&world, &alice, &SigningKey::generate()).await, ended);

    let reset = resetting(&alice.name, &alice.recovery_key, &ended, &device);
    let first = world.send(&reset.wire()).await;
    assert_eq!(first.status, StatusCode::CREATED);
    let issued: CredentialIssued = first.decode();
    let credential = ClientCredential::parse(&issued.credential).unwrap();
    assert_eq!((&credential.user, credential.client_key), (&alice.name, device.public_key()));
    let before = world.snapshot().await;
    let again: CredentialIssued = world.send(&reset.wire()).await.decode();
    assert_eq!(again.credential, issued.credential);
    world.snapshot().await.assert_same(&before, "a repeat");

    let record = world.look_up(&alice.name).await;
    assert_eq!((record.incarnation, record.ended.as_slice()), (1, &[ended.transcript][..]));
    assert_eq!(record.current.founder, device.public_key());
    assert_eq!(record.clients.len(), 1);
    assert_eq!(record.clients[0].credential, issued.credential);
    // The old clients are nothing to anybody (AS-13), and the new one is a client like any other.
    for old in [&alice.device, &second] {
        world.assert_refuses("an old client", &sign_credential::asking(old), ProblemType::NotAllowed).await;
        let tokens = Ask::batch(world.token_key(), 1).call(&old.key);
        world.send(&tokens.wire()).await.assert_problem("its tokens", ProblemType::NotAllowed);
    }
    world.tokens(0, &device.key, &Ask::batch(world.token_key(), 1)).await;
    // The history of the identity that ended is still there for readers that knew it.
    let old = Call::get(format!("/as/users/{}?incarnation=0&after=0", alice.name));
    let old: postern_protocol::auth::UserRecord = world.pay(&old).await.decode();
    assert_eq!(old.commits.len(), 2);
    world.close();
}

#[tokio::test]
async fn a_reset_is_answered_again_with_another_credential_after_its_client_was_silent_for_long() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let device = successor(&alice.name);
    let ended = end(&world, &alice, &device.key).await;
    let reset = resetting(&alice.name, &alice.recovery_key, &ended, &device);
    world.send(&reset.wire()).await.assert_ok("the first");
    fall_silent(&world, device.public_key()).await;
    let again = world.send(&reset.wire()).await;
    assert_eq!(again.status, StatusCode::CREATED);
    let again: CredentialIssued = again.decode();
    assert_eq!(ClientCredential::parse(&again.credential).unwrap().client_key, device.public_key());
    assert_eq!(world.look_up(&alice.name).await.clients[0].credential, again.credential);
    let third: CredentialIssued = world.send(&reset.wire()).await.decode();
    assert_eq!(third.credential, again.credential);

    fall_silent(&world, device.public_key()).await;
    make_pending(&world, device.public_key()).await;
    world.assert_refused("a pending client", &reset.wire(), ProblemType::NotAllowed).await;
    world.close();
}

#[tokio::test]
async fn a_reset_is_answered_again_whatever_limit_was_lowered_since() {
    let world = World::start().await;
    let alice = world.user("alice").await;
    let mut device = device_of(&alice.name);
    device.extensions.push(ExtensionType::Unknown(FILLER));
    device.leaf = Extensions::from_vec(vec![filler(400)]).unwrap();
    device.found(&random_id(), Extensions::empty());
    let ended = end(&world, &alice, &device.key).await;
    let reset = resetting(&alice.name, &alice.recovery_key, &ended, &device);
    let issued: CredentialIssued = world.send(&reset.wire()).await.decode();
    let limit = "SELECT operator.set_user_limit('max_identity_leaf_bytes', 512)";
    world.admin.execute(limit, &[]).await.unwrap();
    let before = world.snapshot().await;
    let again: CredentialIssued = world.send(&reset.wire()).await.decode();
    assert_eq!(again.credential, issued.credential);
    world.snapshot().await.assert_same(&before, "a repeat");
    device.found(&random_id(), Extensions::empty());
    let other = resetting(&alice.name, &alice.recovery_key, &ended, &device);
    world.assert_refused("another EID of its key", &other.wire(), ProblemType::MessageTooLarge).await;
    world.close();
}

#[tokio::test]
async fn nobody_without_the_recovery_key_ends_or_begins_an_identity_and_nobody_learns_who_exists() {
    let world = World::start().await;
    let (alice, mallory) = (world.user("alice").await, world.user("mallory").await);
    let client = SigningKey::generate();
    let (key, wrong) = (&alice.recovery_key, ProblemType::WrongProof);
    let nobody: UserName = "nobody@home.example".parse().unwrap();
    let valid = ending(&alice.name, key, &client);
    let later = |seconds: i64| ending_at(now().saturating_add_signed(seconds), &alice.name, key, &client);
    for (what, call, expected) in [
        ("another key", ending(&alice.name, &mallory.recovery_key, &client), wrong),
        ("a name that nobody has", ending(&nobody, &mallory.recovery_key, &client), wrong),
        ("another client", valid.clone().signed_by(&mallory.device.key), wrong),
        ("another time", valid.with_field("time", Value::from(now() + 1)), wrong),
        ("an old proof", later(-400), wrong),
        ("a proof of the future", later(200), wrong),
        ("another user's client", ending(&alice.name, key, &mallory.device.key), ProblemType::NotAllowed),
        ("a client of the user", ending(&alice.name, key, &alice.device.key), ProblemType::NotAllowed),
        ("no signature", Call { signer: None, ..valid.clone() }, ProblemType::SignatureRequired),
    ] {
        world.assert_refused(what, &call.wire(), expected).await;
    }
    let [taken, free] = [&alice.name, &nobody].map(|name| ending(name, &mallory.recovery_key, &client));
    let [taken, free] = [world.send(&taken.wire()).await, world.send(&free.wire()).await];
    assert_eq!((taken.status, taken.text()), (free.status, free.text()));

    let device = successor(&alice.name);
    let living = IdentityEnded { incarnation: 0, transcript: alice.eid.transcript };
    // No proof can be made for an end that was not.
    let early = resetting(&alice.name, key, &living, &device);
    world.assert_refused("before the end", &early.wire(), wrong).await;
    let ended = end(&world, &alice, &device.key).await;
    let valid = resetting(&alice.name, key, &ended, &device);
    let other = IdentityEnded { transcript: Transcript::new([7; 32]), ..ended };
    let skipping = IdentityEnded { incarnation: 1, ..ended };
    for (what, call, expected) in [
        ("another key", resetting(&alice.name, &mallory.recovery_key, &ended, &device), wrong),
        ("another end", resetting(&alice.name, key, &other, &device), wrong),
        ("another number", resetting(&alice.name, key, &skipping, &device), ProblemType::InvalidMls),
        ("another client", valid.clone().signed_by(&client), ProblemType::NotAllowed),
        ("another name", resetting(&nobody, key, &ended, &successor(&nobody)), wrong),
        (
            "another's leaf",
            resetting(&alice.name, key, &ended, &successor(&mallory.name)),
            ProblemType::InvalidMls,
        ),
    ] {
        world.assert_refused(what, &call.wire(), expected).await;
    }
    world.send(&valid.wire()).await.assert_ok("the owner");
    let later = resetting(&alice.name, key, &ended, &successor(&alice.name));
    world.assert_refused("a second beginning", &later.wire(), ProblemType::NotAllowed).await;
    world.close();
}

#[tokio::test]
async fn of_clients_that_race_to_begin_anew_one_wins() {
    let world = World::builder().servers(2).tokens(100).patient().start().await;
    let alice = world.user("alice").await;
    let devices: Vec<Party> = (0..6).map(|_| successor(&alice.name)).collect();
    let ended = end(&world, &alice, &devices[0].key).await;
    let wires: Vec<_> = devices
        .iter()
        .map(|device| resetting(&alice.name, &alice.recovery_key, &ended, device).wire())
        .collect();
    let sent = wires.iter().enumerate();
    let replies = join_all(sent.map(|(number, wire)| world.send_to(&world.servers[number % 2], wire))).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == StatusCode::CREATED).count(), 1);
    assert!(
        replies.iter().all(|reply| reply.status == StatusCode::CREATED || reply.is_problem("not-allowed"))
    );
    world.close();
}

#[tokio::test]
async fn an_account_is_reset_once_a_month_and_attempts_are_counted_apart_from_registrations() {
    let world = World::builder().strict().tokens(100).start().await;
    let alice = world.user("alice").await;
    let mut device = successor(&alice.name);
    let mut ended = end(&world, &alice, &device.key).await;
    for incarnation in 1..3 {
        let reset = resetting(&alice.name, &alice.recovery_key, &ended, &device);
        world.send(&reset.wire()).await.assert_ok("a reset");
        device = successor(&alice.name);
        let again = ending(&alice.name, &alice.recovery_key, &device.key);
        let refused = world.send(&again.wire()).await;
        refused.assert_problem("a second one", ProblemType::TooManyChanges);
        assert_eq!(refused.header("ratelimit-policy"), r#""monthly";q=1;w=2678400"#);
        let seconds: u32 = refused.header("retry-after").parse().unwrap();
        assert!((1..=31 * 24 * 60 * 60).contains(&seconds));
        world.admin.execute("UPDATE auth.account_changes SET month = month - 1", &[]).await.unwrap();
        ended = end(&world, &alice, &device.key).await;
        assert_eq!(ended.incarnation, incarnation);
    }

    // A flood of registrations keeps nobody from an account, and one of resets has its own bound.
    let fill = "UPDATE auth.settings SET registrations_per_source = 0, registrations_per_hour = 0";
    world.admin.execute(fill, &[]).await.unwrap();
    world
        .send(&resetting(&alice.name, &alice.recovery_key, &ended, &device).wire())
        .await
        .assert_ok("the owner");
    let wrong = ending(&alice.name, &RecoveryKey::generate(), &device.key);
    let mut refused = 0;
    for _ in 0..25 {
        let reply = world.send(&wrong.wire()).await;
        refused += usize::from(reply.is_problem("too-many-changes"));
    }
    assert!(refused >= 5, "{refused}");
    let reply = world.send(&wrong.wire()).await;
    assert_eq!(reply.header("ratelimit-policy"), r#""hourly";q=20;w=3600"#);
    // The right proof is not limited by the wrong ones of others, but by what an account may do.
    let right = world.send(&ending(&alice.name, &alice.recovery_key, &SigningKey::generate()).wire()).await;
    assert_eq!(right.header("ratelimit-policy"), r#""monthly";q=1;w=2678400"#);
    world.admin.execute("SELECT operator.set_user_limit('resets_per_month', 0)", &[]).await.unwrap();
    world.admin.execute("UPDATE operator.attempts SET hour = hour - 1", &[]).await.unwrap();
    let closed = ending(&alice.name, &alice.recovery_key, &SigningKey::generate());
    world.send(&closed.wire()).await.assert_problem("no resets at all", ProblemType::TooManyChanges);
    world.close();
}
