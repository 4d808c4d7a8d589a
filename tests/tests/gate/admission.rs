//! Admission (AS-1): everybody can register, those with an invite, or those with a login at the operator's identity
//! provider. Invites and tokens are looked at before anything dear, admit once, and tell nothing.

use futures_util::future::join_all;
use postern_client::{Client, Error};
use postern_protocol::{
    admission::{Admission, IdToken, InviteCode, registration_nonce},
    auth::CredentialIssued,
    problem::ProblemType,
};
use postern_tests_kit::{Call, IdentityProvider, User, World, home, now, registration_with};
use reqwest::StatusCode;
use serde_json::json;

async fn policy(world: &World, policy: &str) {
    let set = "SELECT operator.set_registration_policy($1)";
    world.admin.execute(set, &[&policy]).await.expect("the operator may");
}

/// Codes that the operator makes; the arguments are those of `operator.make_invites`.
async fn codes(world: &World, arguments: &str) -> Vec<InviteCode> {
    let operator = world.cluster.connect_as("postern_operator").await;
    let made = operator.query(&format!("SELECT operator.make_invites({arguments})"), &[]).await.unwrap();
    made.iter().map(|row| row.get::<_, &str>(0).parse().expect("it is a code")).collect()
}

fn invited(user: &User, code: &InviteCode) -> Call {
    registration_with(&user.name, &user.device, Admission::Invite(code.clone()))
}

fn with_token(user: &User, token: &IdToken) -> Call {
    registration_with(&user.name, &user.device, Admission::IdToken(token.clone()))
}

fn nonce(user: &User) -> String {
    registration_nonce(&home(), &user.device.public_key())
}

#[tokio::test]
async fn by_invitation_those_register_who_have_one_that_is_good() {
    let world = World::builder().start().await;
    let code = codes(&world, "").await.remove(0);
    // Where everybody may, an invite is not used up.
    world.send(&invited(&User::new("early"), &code).wire()).await.assert_ok("under the open policy");
    policy(&world, "invite").await;

    let alice = User::new("alice");
    let [expired, revoked] = [codes(&world, "").await.remove(0), codes(&world, "").await.remove(0)];
    let by_digest = async |sql: &str, code: &InviteCode| {
        let digest = code.digest().as_bytes().to_vec();
        world.admin.execute(sql, &[&digest]).await.unwrap();
    };
    by_digest("UPDATE auth.invites SET expires = expires - 14 WHERE digest = $1", &expired).await;
    by_digest("SELECT operator.revoke_invite(invite) FROM auth.invites WHERE digest = $1", &revoked).await;
    for (what, call) in [
        ("no invite", alice.registration()),
        ("an unknown one", invited(&alice, &InviteCode::generate())),
        ("an expired one", invited(&alice, &expired)),
        ("a revoked one", invited(&alice, &revoked)),
        ("an ID token instead", with_token(&alice, &"e30.e30.".parse().unwrap())),
    ] {
        let reply = world.send(&call.wire()).await;
        assert_eq!(reply.slug(), "not-admitted", "{what}");
        assert!(reply.text().contains("an invite is needed"), "{what}: {}", reply.text());
    }
    assert_eq!(world.count("auth.users").await, 1);

    // A name that is taken costs nothing.
    let taken = User::new("early");
    assert_eq!(world.send(&invited(&taken, &code).wire()).await.slug(), "name-taken");
    let call = invited(&alice, &code);
    let first: CredentialIssued = world.send(&call.wire()).await.decode();
    // It is used up now, also for those who know its code; the repeat of a lost answer is answered.
    let again: CredentialIssued = world.send(&call.wire()).await.decode();
    assert_eq!(again.credential, first.credential);
    assert_eq!(world.send(&invited(&User::new("bob"), &code).wire()).await.slug(), "not-admitted");
    // Whether a key is a client's is told to those who have it: others hear the same of every key.
    for user in [&alice, &User::new("bob")] {
        let mut claimed = user.registration().wire();
        claimed.set("signature", &format!("sig=:{}==:", "A".repeat(86)));
        assert_eq!(world.send(&claimed).await.slug(), "signature-required", "{}", user.name);
    }
    // A client whose clock is wrong when it repeats a request is not told that its key has no account.
    let mut late = call.unsigned();
    late.sign(&alice.device.key, |input| input.shift(-3600));
    assert_eq!(world.send(&late).await.slug(), "signature-required");
    // A client needs no invite: its request makes no account.
    let again: CredentialIssued = world.send(&alice.registration().wire()).await.decode();
    assert_eq!(again.credential, first.credential);

    // Nothing tells who came by which, and no code is anywhere.
    let dump = world.cluster.dump().await;
    let plain = code.to_string().replace('-', "");
    assert!(!dump.contains(&code.to_string()) && !dump.contains(&plain));
    let columns: i64 = world
        .value("SELECT count(*) FROM pg_attribute WHERE attrelid = 'auth.invites'::regclass AND attnum > 0 AND NOT attisdropped")
        .await;
    assert_eq!(columns, 6, "of which none is about the invited");
    world.close();
}

#[tokio::test]
async fn an_invite_admits_as_many_as_it_is_for_however_many_come_at_once() {
    let world = World::builder().servers(2).patient().start().await;
    policy(&world, "invite").await;
    for uses in [1, 3] {
        let code = codes(&world, &format!("uses => {uses}")).await.remove(0);
        let users: Vec<_> = (0..12).map(|number| User::new(&format!("guest-{uses}x{number}"))).collect();
        let wires: Vec<_> = users.iter().map(|user| invited(user, &code).wire()).collect();
        let sent = wires.iter().enumerate();
        let replies =
            join_all(sent.map(|(index, wire)| world.send_to(&world.servers[index % 2], wire))).await;
        let admitted = replies.iter().filter(|reply| reply.status == StatusCode::CREATED).count();
        assert_eq!(admitted, uses);
        for reply in replies.iter().filter(|reply| reply.status != StatusCode::CREATED) {
            assert_eq!(reply.slug(), "not-admitted");
        }
    }
    assert_eq!(world.count("auth.users").await, 4);
    // The same request several times at once is one registration.
    let code = codes(&world, "").await.remove(0);
    let call = invited(&User::new("one"), &code);
    let wires: Vec<_> = (0..8).map(|_| call.wire()).collect();
    let sent = wires.iter().enumerate();
    let replies = join_all(sent.map(|(index, wire)| world.send_to(&world.servers[index % 2], wire))).await;
    for reply in &replies {
        assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    }
    world.close();
}

#[tokio::test]
async fn the_operator_makes_invites_and_sees_what_is_left_of_them() {
    let world = World::builder().start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    assert_eq!(codes(&world, "").await.len(), 1);
    let many = codes(&world, "number => 50, uses => 2, days => 3, note => 'choir'").await;
    let distinct: std::collections::BTreeSet<_> = many.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), 50);
    // The database digests a code as clients do.
    let known = "SELECT count(*) FROM auth.invites WHERE digest = ANY($1)";
    let digests: Vec<Vec<u8>> = many.iter().map(|code| code.digest().as_bytes().to_vec()).collect();
    assert_eq!(world.admin.query_one(known, &[&digests]).await.unwrap().get::<_, i64>(0), 50);
    let listed = operator
        .query(
            "SELECT uses, expires - (now() AT TIME ZONE 'UTC')::date, note, made_by, invite FROM operator.invites()
              WHERE note = 'choir'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(listed.len(), 50);
    assert!(listed.iter().all(|row| (row.get::<_, i32>(0), row.get::<_, i32>(1)) == (2, 2)));
    for bad in
        ["0", "10001", "NULL", "uses => 0", "uses => NULL", "days => 0", "days => 3651", "days => NULL"]
    {
        let refused = operator.execute(&format!("SELECT operator.make_invites({bad})"), &[]).await;
        assert!(refused.is_err(), "{bad}");
    }
    world
        .admin
        .execute("UPDATE auth.invites SET expires = expires - 3 WHERE note = 'choir'", &[])
        .await
        .unwrap();
    assert!(
        operator.query("SELECT FROM operator.invites() WHERE note = 'choir'", &[]).await.unwrap().is_empty()
    );
    world.admin.execute("SELECT auth.clean_up(0)", &[]).await.unwrap();
    assert_eq!(world.count("auth.invites").await, 1, "expired ones go");
    let monitor = world.cluster.connect_as("postern_monitor").await;
    for denied in ["SELECT operator.make_invites()", "SELECT operator.invites()", "SELECT operator.users()"] {
        assert!(monitor.execute(denied, &[]).await.is_err(), "{denied}");
    }
}

/// A world whose servers know this provider.
async fn world_with(provider: &IdentityProvider) -> World {
    let world = World::builder().servers(2).logins_at(provider).patient().start().await;
    policy(&world, "oidc").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_login_one_account_is_registered_by_the_client_that_the_token_was_made_for() {
    let mut provider = IdentityProvider::start();
    let world = world_with(&provider).await;
    let alice = User::new("alice");
    let token = provider.log_in("subject-1", &nonce(&alice));

    // Somebody who steals the token cannot use it: not with another key, and not with hers.
    let thief = User::new("mallory");
    let stolen = world.send(&with_token(&thief, &token).wire()).await;
    assert_eq!(stolen.slug(), "not-admitted");
    assert!(stolen.text().contains("another nonce"), "{}", stolen.text());
    let unsigned = Call { signer: None, ..with_token(&alice, &token) };
    assert_eq!(world.send(&unsigned.wire()).await.slug(), "signature-required");
    let forged = with_token(&thief, &token).signed_by(&thief.device.key);
    assert_eq!(world.send(&forged.wire()).await.slug(), "not-admitted");

    let call = with_token(&alice, &token);
    let first: CredentialIssued = world.send(&call.wire()).await.decode();
    let again: CredentialIssued = world.send_to(&world.servers[1], &call.wire()).await.decode();
    assert_eq!(again.credential, first.credential, "an answer was lost");
    for call in [&call, &alice.registration()] {
        let mut late = call.unsigned();
        late.sign(&alice.device.key, |input| input.shift(-3600));
        assert_eq!(world.send(&late).await.slug(), "signature-required", "its clock is wrong");
    }

    // One account for each login, whatever the name, the key and the time.
    let second = User::new("alice-again");
    let token = provider.log_in("subject-1", &nonce(&second));
    assert_eq!(world.send(&with_token(&second, &token).wire()).await.slug(), "account-exists");
    let bob = User::new("bob");
    let token = provider.log_in("subject-2", &nonce(&bob));
    world.send(&with_token(&bob, &token).wire()).await.assert_ok("another login");
    assert_eq!(world.send(&User::new("carol").registration().wire()).await.slug(), "not-admitted");
    let code = codes(&world, "").await.remove(0);
    assert_eq!(world.send(&invited(&User::new("carol"), &code).wire()).await.slug(), "not-admitted");

    // The database has a digest of the login that nobody computes without the key, and nothing else of it.
    let text = world.cluster.dump().await;
    assert!(!text.contains("subject-1"));
    let digests: i64 = world.value("SELECT count(DISTINCT subject) FROM auth.users").await;
    assert_eq!(digests, 2);

    // An account that is gone leaves its login free.
    world.admin.execute("SELECT operator.delete_user('alice')", &[]).await.unwrap();
    let token = provider.log_in("subject-1", &nonce(&second));
    world.send(&with_token(&second, &token).wire()).await.assert_ok("the login is free");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_race_with_one_login_one_gets_an_account() {
    let mut provider = IdentityProvider::start();
    let world = world_with(&provider).await;
    for round in 0..3 {
        let users: Vec<_> = (0..4).map(|number| User::new(&format!("racer-{round}x{number}"))).collect();
        let mut wires = Vec::new();
        for user in &users {
            let token = provider.log_in(&format!("subject-{round}"), &nonce(user));
            wires.push(with_token(user, &token).wire());
        }
        let sent = wires.iter().enumerate();
        let replies =
            join_all(sent.map(|(index, wire)| world.send_to(&world.servers[index % 2], wire))).await;
        let admitted = replies.iter().filter(|reply| reply.status == StatusCode::CREATED).count();
        assert_eq!(admitted, 1);
        let others = |reply: &&postern_tests_kit::Reply| reply.status != StatusCode::CREATED;
        assert!(replies.iter().filter(others).all(|reply| reply.is_problem("account-exists")));
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_proves_nothing_here_is_refused() {
    let (mut provider, mut other) = (IdentityProvider::start(), IdentityProvider::start());
    let world = world_with(&provider).await;
    let alice = User::new("alice");
    let good = json!({
        "iss": provider.issuer(), "aud": IdentityProvider::CLIENT, "sub": "subject", "nonce": nonce(&alice),
        "iat": now(), "exp": now() + 600,
    });
    let but = |name: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let refused = async |what: &str, token: &IdToken, reason: &str| {
        let reply = world.send(&with_token(&alice, token).wire()).await;
        assert_eq!(reply.slug(), "not-admitted", "{what}");
        assert!(reply.text().contains(reason), "{what}: {}", reply.text());
        assert!(!reply.text().contains("subject"), "{what}: nothing of the token is told");
    };
    for (what, claims, reason) in [
        ("one that has expired", but("exp", json!(now() - 1)), "has expired"),
        ("one that is old", but("iat", json!(now() - 3600)), "too long ago"),
        ("one of the future", but("iat", json!(now() + 3600)), "in the future"),
        ("one for another", but("aud", json!("another")), "another audience"),
        (
            "one for another, too",
            but("aud", json!([IdentityProvider::CLIENT, "another"])),
            "another audience",
        ),
        ("another issuer's", but("iss", json!(other.issuer())), "another issuer"),
        ("one for something else", but("nonce", json!("something else")), "another nonce"),
        ("one without a nonce", without("nonce"), "another nonce"),
        ("one without a subject", without("sub"), ""),
        ("one without an end", without("exp"), ""),
        ("one without an audience", without("aud"), ""),
    ] {
        refused(what, &provider.sign("RS256", &claims), reason).await;
    }
    for algorithm in ["none", "HS256"] {
        refused(algorithm, &provider.sign(algorithm, &good), "not signed by a key").await;
    }
    refused("one of another provider", &other.log_in("subject", &nonce(&alice)), "another issuer").await;
    refused("one that another signed", &other.sign("RS256", &good), "not signed by a key").await;
    let genuine = provider.log_in("subject", &nonce(&alice));
    let mut parts: Vec<String> = genuine.as_str().split('.').map(str::to_owned).collect();
    parts[1] =
        provider.sign("none", &but("sub", json!("somebody"))).as_str().split('.').nth(1).unwrap().to_owned();
    refused("a changed one", &parts.join(".").parse().unwrap(), "not signed by a key").await;
    refused("nonsense", &"e30.e30.e30".parse().unwrap(), "").await;
    assert_eq!(world.count("auth.users").await, 0);
    world.send(&with_token(&alice, &genuine).wire()).await.assert_ok("a good one");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_providers_keys_are_fetched_again_when_a_token_needs_others_and_kept_while_it_is_away() {
    let mut provider = IdentityProvider::start();
    let world = world_with(&provider).await;
    let alice = User::new("alice");
    let token = provider.log_in("subject-1", &nonce(&alice));
    world.send(&with_token(&alice, &token).wire()).await.assert_ok("with the first keys");
    // A server that saw the first keys finds the next ones, but not more often than twice a minute.
    provider.rotate();
    let (bob, carol) = (User::new("bob"), User::new("carol"));
    let tokens = [&bob, &carol].map(|user| provider.log_in(user.name.local(), &nonce(user)));
    let replies = [
        world.send(&with_token(&bob, &tokens[0]).wire()).await,
        world.send_to(&world.servers[1], &with_token(&carol, &tokens[1]).wire()).await,
    ];
    assert_eq!(replies[0].slug(), "not-admitted", "its pause is not over");
    replies[1].assert_ok("the other server asks for the first time");

    let issuer = provider.issuer().to_owned();
    let dave = User::new("dave");
    let token = provider.log_in("subject-3", &nonce(&dave));
    drop(provider);
    let reply = world.send_to(&world.servers[1], &with_token(&dave, &token).wire()).await;
    reply.assert_ok("the keys are known");
    // A server that never saw them can say nothing.
    let server = postern_tests_kit::Server::builder(&world.cluster)
        .env("POSTERN_OIDC_ISSUER", &issuer)
        .env("POSTERN_OIDC_CLIENT_ID", IdentityProvider::CLIENT)
        .start()
        .await;
    let erin = User::new("erin");
    let reply = world.send_to(&server, &with_token(&erin, &token).wire()).await;
    assert_eq!((reply.status, reply.slug()), (StatusCode::SERVICE_UNAVAILABLE, "unavailable"));
    world.close();
}

#[tokio::test]
async fn a_policy_that_needs_a_provider_admits_nobody_without_one() {
    let world = World::builder().start().await;
    let token: IdToken = "e30.e30.".parse().unwrap();
    let alice = User::new("alice");
    assert_eq!(world.send(&with_token(&alice, &token).wire()).await.slug(), "not-admitted", "an open server");
    policy(&world, "oidc").await;
    for call in [alice.registration(), with_token(&alice, &token)] {
        assert_eq!(world.send(&call.wire()).await.slug(), "not-admitted");
    }
    world.close();
}

/// The database decides in the accepting transaction, whatever the server asked before.
#[tokio::test]
async fn the_database_admits_nobody_whom_the_policy_keeps_out() {
    let world = World::builder().start().await;
    let register = async |name: &str, invite: Option<&[u8]>, subject: Option<&[u8]>| -> String {
        let sql = "SELECT outcome::text FROM auth.register_user(
                       $1, sha256(convert_to($1, 'UTF8')), 'info', 'tree', 'eid', sha256(''), sha512(''), 'credential',
                       sha256(''), $2, $3)";
        world.admin.query_one(sql, &[&name, &invite, &subject]).await.unwrap().get(0)
    };
    let code = codes(&world, "").await.remove(0);
    let digest = code.digest();
    let (digest, subject) = (digest.as_bytes().as_slice(), [7; 32]);
    policy(&world, "invite").await;
    assert_eq!(register("a", None, None).await, "not_admitted");
    assert_eq!(register("a", Some(&[1; 32]), None).await, "not_admitted");
    assert_eq!(register("a", None, Some(&subject)).await, "not_admitted");
    assert_eq!(register("a", Some(digest), None).await, "registered");
    assert_eq!(register("b", Some(digest), None).await, "not_admitted");
    policy(&world, "oidc").await;
    assert_eq!(register("b", Some(digest), None).await, "not_admitted");
    assert_eq!(register("b", None, Some(&subject)).await, "registered");
    assert_eq!(register("c", None, Some(&subject)).await, "subject_known");
    world.close();
}

#[tokio::test]
async fn the_library_brings_what_the_server_asks_for_and_begins_anew_after_a_refusal() {
    let world = World::builder().start().await;
    policy(&world, "invite").await;
    let state = world.homes.path().join("alice");
    let builder = Client::builder(&state).server(world.server().url());
    let kind = |result: &Result<Client, Error>| result.as_ref().err().and_then(Error::problem);
    assert_eq!(kind(&builder.register("alice").await), Some(ProblemType::NotAdmitted));
    let code = codes(&world, "").await.remove(0);
    // Another name can be tried, in another form.
    let alice = builder.clone().admission(Admission::Invite(code)).register("ALICIA").await.unwrap();
    assert_eq!(alice.user().to_string(), "alicia@home.example");
    world.admin.execute("SELECT operator.set_user_limit('invites_per_user', 1)", &[]).await.unwrap();
    let (code, not_after) = alice.make_invite().await.unwrap();
    assert!(not_after > now());
    let bob = Client::builder(world.homes.path().join("bob")).server(world.server().url());
    let bob = bob.admission(Admission::Invite(code)).register("Bob").await.unwrap();
    assert_eq!(alice.look_up(bob.user()).await.unwrap().clients.len(), 1);
    let again = alice.make_invite().await;
    assert_eq!(again.err().as_ref().and_then(Error::problem), Some(ProblemType::TooManyInvites));
    world.close();
}
