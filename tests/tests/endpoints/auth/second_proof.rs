//! A login at the operator's identity provider as the second proof (AS-8, AS-9): by the account's own login, for one
//! operation by one client, recent, and once.

use postern_protocol::{
    PublicKey, Transcript,
    account::IdentityEnded,
    admission::{Admission, IdToken, registration_nonce},
    auth::CredentialIssued,
    eid::EidState,
    key::SigningKey,
    name::UserName,
    problem::ProblemType,
    second_proof::{Operation, RecoveryKey, SecondProof},
};
use postern_tests_kit::{
    Call, Commit, IdentityProvider, MovedClock, Party, User, World, home, now, registration_with,
};
use serde_json::{Value, json};

use super::{
    delete_account::{deleting_with, rehearsing},
    rename_user::{commit_of, name, proven_renaming, taking},
    replace_recovery_key::replacing_with,
    reset_account::{ending_with, resetting_with, successor},
};

const WRONG: ProblemType = ProblemType::WrongProof;

async fn policy(world: &World, policy: &str) {
    let set = "SELECT operator.set_registration_policy($1)";
    world.admin.execute(set, &[&policy]).await.expect("the operator may");
}

/// A world that lets in who has a login. Its banker came before.
async fn world_with(provider: &IdentityProvider) -> World {
    let world = World::builder().servers(2).tokens(300).logins_at(provider).start().await;
    policy(&world, "oidc").await;
    world
}

/// A user whose login has the same name.
async fn registered(world: &World, provider: &mut IdentityProvider, local: &str) -> User {
    let user = User::new(local);
    let nonce = registration_nonce(&home(), &user.device.public_key());
    let admission = Admission::IdToken(provider.log_in(local, &nonce));
    let call = registration_with(&user.name, &user.device, admission);
    world.send(&call.wire()).await.assert_ok("a registration");
    user
}

fn replacement(new: &RecoveryKey) -> Operation<'static> {
    Operation::ReplaceRecoveryKey { recovery_key: new.verifier() }
}

/// The nonce of a change of name. No state of the identity is in it.
fn rename_nonce(user: &UserName, to: &UserName, client: &PublicKey) -> String {
    let eid = EidState { incarnation: 0, epoch: 0, transcript: Transcript::new([0; 32]) };
    Operation::RenameUser { to, eid }.nonce(user, client)
}

fn by(token: &IdToken) -> SecondProof {
    SecondProof::IdToken(token.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_login_replaces_the_recovery_key_and_an_answer_that_was_lost_is_asked_for_again() {
    let mut provider = IdentityProvider::start();
    let world = world_with(&provider).await;
    let alice = registered(&world, &mut provider, "alice").await;
    let client = alice.device.public_key();
    let [first, second] = [RecoveryKey::generate(), RecoveryKey::generate()];
    let token = provider.log_in_anew("alice", &replacement(&first).nonce(&alice.name, &client));
    let call = replacing_with(&alice, &first, by(&token));
    world.pay(&call).await.assert_ok("her login");
    world.pay(&call).await.assert_ok("the same again");
    let other = replacing_with(&alice, &second, by(&token));
    world.assert_refuses("another key", &other, WRONG).await;

    // The key that it made is hers, and what it once replaced does not come back by it: at no server.
    let proof = SecondProof::recovery(&first, &alice.name, &replacement(&second));
    world.pay(&replacing_with(&alice, &second, proof)).await.assert_ok("the key that the login made");
    world.assert_refuses("the token again", &call, WRONG).await;
    let elsewhere = world.paid(call.clone()).wire();
    world.send_to(&world.servers[1], &elsewhere).await.assert_problem("at another server", WRONG);

    // A token is forgotten once it has not been good for a day.
    assert_eq!(world.count("auth.used_id_tokens").await, 1);
    let clock = i64::try_from(now()).expect("it is a time");
    for (hours, kept) in [(0_i32, 1), (24, 1), (4, 0)] {
        let pass = "UPDATE auth.used_id_tokens SET hour = hour - $1";
        world.admin.execute(pass, &[&hours]).await.unwrap();
        world.admin.execute("SELECT auth.clean_up($1)", &[&clock]).await.unwrap();
        assert_eq!(world.count("auth.used_id_tokens").await, kept, "after {hours} more hours");
    }
    world.close();
}

/// PostgreSQL's machine alone has another time for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_proves_once_whatever_the_databases_clock_was_meanwhile() {
    const HOUR: i64 = 60 * 60;
    let clock = MovedClock::of_others();
    let mut provider = IdentityProvider::start();
    let world = World::builder().database_by(&clock).tokens(100).logins_at(&provider).start().await;
    policy(&world, "oidc").await;
    let alice = registered(&world, &mut provider, "alice").await;
    // Several leaps in a row are as many days that the database knows.
    for leaps in [&[2_i64][..], &[24], &[60 * 24], &[-24], &[10 * 24, 11 * 24, 12 * 24]] {
        let [first, second] = [RecoveryKey::generate(), RecoveryKey::generate()];
        let nonce = replacement(&first).nonce(&alice.name, &alice.device.public_key());
        let call = replacing_with(&alice, &first, by(&provider.log_in_anew("alice", &nonce)));
        world.pay(&call).await.assert_ok("her login");
        // Another key takes the place of the one that the login made.
        let proof = SecondProof::recovery(&first, &alice.name, &replacement(&second));
        world.pay(&replacing_with(&alice, &second, proof)).await.assert_ok("the key that the login made");
        for hours in leaps.iter().chain(&[0]) {
            clock.move_to(hours * HOUR);
            let by_server = i64::try_from(now()).expect("it is a time");
            world.admin.execute("SELECT auth.clean_up($1)", &[&by_server]).await.expect("a superuser may");
        }
        world.assert_refuses(&format!("the token again, after {leaps:?} hours"), &call, WRONG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_the_owners_recent_login_for_this_very_operation_proves_nothing() {
    let mut provider = IdentityProvider::start();
    let world = world_with(&provider).await;
    let alice = registered(&world, &mut provider, "alice").await;
    let mallory = registered(&world, &mut provider, "mallory").await;
    let client = alice.device.public_key();
    let new = RecoveryKey::generate();
    let operation = replacement(&new);
    let nonce = operation.nonce(&alice.name, &client);
    let refused = async |what: &str, token: &IdToken, reason: &str| {
        let call = replacing_with(&alice, &new, by(token));
        world.assert_refuses(what, &call, WRONG).await;
        let reply = world.pay(&call).await;
        assert!(reply.text().contains(reason), "{what}: {}", reply.text());
    };
    for (what, subject, nonce, reason) in [
        ("another user's login", "mallory", nonce.clone(), "not of the login"),
        ("a login of nobody here", "nobody", nonce.clone(), "not of the login"),
        (
            "a token for a deletion",
            "alice",
            Operation::DeleteAccount { client }.nonce(&alice.name, &client),
            "another nonce",
        ),
        (
            "a token for another key",
            "alice",
            replacement(&RecoveryKey::generate()).nonce(&alice.name, &client),
            "another nonce",
        ),
        (
            "a token for another device",
            "alice",
            operation.nonce(&alice.name, &mallory.device.public_key()),
            "another nonce",
        ),
        ("a token for another account", "alice", operation.nonce(&mallory.name, &client), "another nonce"),
        ("a token for a registration", "alice", registration_nonce(&home(), &client), "another nonce"),
    ] {
        let token = provider.log_in_anew(subject, &nonce);
        refused(what, &token, reason).await;
    }
    let session = provider.log_in("alice", &nonce);
    refused("a session of whatever age", &session, "when its user logged in").await;
    let good = json!({
        "iss": provider.issuer(), "aud": IdentityProvider::CLIENT, "sub": "alice", "nonce": nonce,
        "iat": now(), "exp": now() + 600, "auth_time": now(),
    });
    let but = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for (what, claims, reason) in [
        ("one that has expired", but("exp", json!(now() - 1)), "has expired"),
        ("one that is old", but("iat", json!(now() - 3600)), "too long ago"),
        ("an old login", but("auth_time", json!(now() - 3600)), "log in again"),
        ("a login of the future", but("auth_time", json!(now() + 3600)), "log in again"),
        ("one for another", but("aud", json!("another")), "another audience"),
    ] {
        refused(what, &provider.sign("RS256", &claims), reason).await;
    }
    refused("one that nobody signed", &provider.sign("none", &good), "not signed by a key").await;
    refused("nonsense", &"e30.e30.".parse().unwrap(), "").await;

    // Where a login lets nobody in, it proves nothing.
    let token = provider.sign("RS256", &good);
    for other in ["open", "invite"] {
        policy(&world, other).await;
        refused(other, &token, "recovery key only").await;
    }
    policy(&world, "oidc").await;
    let without = postern_tests_kit::Server::start(&world.cluster).await;
    let call = world.paid(replacing_with(&alice, &new, by(&token)));
    let reply = world.send_to(&without, &call.wire()).await;
    reply.assert_problem("a server that has no provider", WRONG);
    assert!(reply.text().contains("no identity provider"), "{}", reply.text());

    // Another's device is another's, whatever the token says.
    let call = replacing_with(&mallory, &new, by(&token));
    world.assert_refuses("by another user's device", &call, WRONG).await;
    let counted: i32 = world.value("SELECT max(proofs) FROM auth.wrong_proofs").await;
    assert!(counted > 10, "wrong proofs are counted: {counted}");
    assert_eq!(world.count("auth.used_id_tokens").await, 0);
    world.pay(&replacing_with(&alice, &new, by(&token))).await.assert_ok("nothing was wrong with that one");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_login_of_the_owner_ends_an_identity_and_begins_the_next_once() {
    let mut provider = IdentityProvider::start();
    let world = world_with(&provider).await;
    world.admin.execute("SELECT operator.set_user_limit('resets_per_month', 10)", &[]).await.unwrap();
    let alice = registered(&world, &mut provider, "alice").await;
    registered(&world, &mut provider, "mallory").await;
    let device = successor(&alice.name);
    let nonce = |user: &UserName, client: &SigningKey| {
        let client = client.public_key();
        Operation::EndIdentity { client, time: 0 }.nonce(user, &client)
    };
    let ending = |device: &Party, token: &IdToken| ending_with(now(), &alice.name, &device.key, by(token));

    // Nobody learns from an answer whether a name is somebody's.
    let nobody = name("nobody");
    let texts = [&alice.name, &nobody].map(|user| {
        let token = provider.log_in_anew("mallory", &nonce(user, &device.key));
        ending_with(now(), user, &device.key, by(&token)).wire()
    });
    let [taken, free] = [world.send(&texts[0]).await, world.send(&texts[1]).await];
    taken.assert_problem("another's login", WRONG);
    assert_eq!((taken.status, taken.text()), (free.status, free.text()));
    assert_eq!(world.count("auth.incarnations WHERE eid IS NULL").await, 0);

    let token = provider.log_in_anew("alice", &nonce(&alice.name, &device.key));
    let stolen = ending(&successor(&alice.name), &token);
    world.assert_refused("by another device", &stolen.wire(), WRONG).await;
    let ended: IdentityEnded = world.send(&ending(&device, &token).wire()).await.decode();
    let again: IdentityEnded = world.send(&ending(&device, &token).wire()).await.decode();
    assert_eq!(again, ended, "an answer was lost");
    let reset = resetting_with(&alice.name, &ended, &device, |_| by(&token));
    let first: CredentialIssued = world.send(&reset.wire()).await.decode();
    let again: CredentialIssued = world.send(&reset.wire()).await.decode();
    assert_eq!(again.credential, first.credential, "an answer was lost");

    // The same login does neither a second time, whoever has the device that logged in.
    let third = successor(&alice.name);
    let fresh = provider.log_in_anew("alice", &nonce(&alice.name, &third.key));
    let ended: IdentityEnded = world.send(&ending(&third, &fresh).wire()).await.decode();
    assert_eq!(ended.incarnation, 1);
    let resumed = resetting_with(&alice.name, &ended, &device, |_| by(&token));
    world.assert_refused("the first device's token again", &resumed.wire(), WRONG).await;
    let reset = resetting_with(&alice.name, &ended, &third, |_| by(&fresh));
    world.send(&reset.wire()).await.assert_ok("the next identity");
    world.assert_refused("its token again", &ending(&device, &token).wire(), WRONG).await;
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_login_changes_the_name_once_whichever_device_was_faster() {
    let mut provider = IdentityProvider::start();
    let world = world_with(&provider).await;
    world.admin.execute("SELECT operator.set_user_limit('renames_per_month', 10)", &[]).await.unwrap();
    let mut alice = registered(&world, &mut provider, "alice").await;
    let mut second = world.add_device(&mut alice).await;
    let client = alice.device.public_key();
    let (old, alicia) = (alice.name.clone(), name("alicia"));
    let token = provider.log_in_anew("alice", &rename_nonce(&old, &alicia, &client));
    let renaming = |user: &mut User, to: &UserName, proof: &dyn Fn(&Operation<'_>) -> SecondProof| {
        let made = taking(&mut user.device, to);
        let commit = commit_of(user, to, &made, &user.device);
        let proof = proof(&Operation::RenameUser { to, eid: commit.state.eid });
        (proven_renaming(to, commit, &user.device, proof), made)
    };
    let (late, _) = renaming(&mut alice, &alicia, &|_| by(&token));
    alice.device.forget();
    let update = Commit { update: true, ..Default::default() };
    let made = world.commit_identity_by(&mut alice, &mut second, update).await;
    world.assert_refuses("after another device", &late, ProblemType::WrongEpoch).await;
    alice.device.receive(&made.commit);
    let other = name("alison");
    let (call, _) = renaming(&mut alice, &other, &|_| by(&token));
    world.assert_refuses("another name", &call, WRONG).await;
    alice.device.forget();

    let (call, made) = renaming(&mut alice, &alicia, &|_| by(&token));
    world.pay(&call).await.assert_ok("the same login, with another commit");
    alice.moved(&made.commit);
    alice.device.merge();
    alice.name = alicia.clone();
    // Back again, and the old token is of no use.
    let (key, user) = (alice.recovery_key.clone(), alice.name.clone());
    let (call, made) = renaming(&mut alice, &old, &|operation| SecondProof::recovery(&key, &user, operation));
    world.pay(&call).await.assert_ok("back again");
    alice.moved(&made.commit);
    alice.device.merge();
    alice.name = old;
    let (call, _) = renaming(&mut alice, &alicia, &|_| by(&token));
    world.assert_refuses("the token again", &call, WRONG).await;
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_login_deletes_the_account_after_a_rehearsal_and_leaves_nothing_of_it() {
    let mut provider = IdentityProvider::start();
    let world = world_with(&provider).await;
    let alice = registered(&world, &mut provider, "alice").await;
    let client = alice.device.public_key();
    let nonce = Operation::DeleteAccount { client }.nonce(&alice.name, &client);
    let token = provider.log_in_anew("alice", &nonce);
    let call = deleting_with(&alice, by(&token));
    for _ in 0..2 {
        let before = world.snapshot().await;
        world.pay(&rehearsing(&call)).await.assert_ok("a rehearsal");
        world.snapshot().await.assert_same(&before, "a rehearsal");
    }
    world.pay(&call).await.assert_ok("the owner's login");
    assert_eq!(world.count("auth.users WHERE name = 'alice'").await, 0);
    world.assert_refuses("a repeat", &call, ProblemType::NotAllowed).await;
    // Login and name are free: the next account is another one, with another client.
    let next = registered(&world, &mut provider, "alice").await;
    let stolen = deleting_with(&next, by(&token));
    world.assert_refuses("the token again", &stolen, WRONG).await;
    world.close();
}

/// A proof that one server process verified is judged by the database again, in the transaction that takes effect.
#[tokio::test]
async fn the_database_takes_no_proof_that_holds_no_more() {
    let world = World::builder().tokens(20).start().await;
    let alice = world.user("alice").await;
    let login = [7_u8; 32];
    world
        .admin
        .execute("UPDATE auth.users SET subject = $1 WHERE name = 'alice'", &[&login.as_slice()])
        .await
        .unwrap();
    let end = async |proof: &str| -> String {
        let sql = format!(
            "SELECT outcome::text FROM auth.end_identity('alice', ROW({proof})::auth.verified_proof, sha256('client'))"
        );
        world.value(&sql).await
    };
    let digest = "decode(repeat('07', 32), 'hex')";
    let shown = format!("NULL, {digest}, sha256('token'), 1000000");
    assert_eq!(end(&shown).await, "wrong_proof", "the policy is another");
    policy(&world, "oidc").await;
    assert_eq!(end("NULL, sha256('other'), sha256('token'), 1000000").await, "wrong_proof");
    assert_eq!(end("sha256('other'), NULL, NULL, NULL").await, "wrong_proof");
    assert_eq!(end("NULL, NULL, NULL, NULL").await, "wrong_proof");
    world
        .admin
        .execute("INSERT INTO auth.used_id_tokens VALUES (sha256('token'), 1000000)", &[])
        .await
        .unwrap();
    assert_eq!(end(&shown).await, "wrong_proof", "it was used");
    assert_eq!(end(&shown.replace("'token'", "'another'")).await, "ended");
    let lookup = Call::get(format!("/as/users/{}", alice.name));
    world.pay(&lookup).await.assert_problem("no identity lives", ProblemType::NotFound);
    world.close();
}
