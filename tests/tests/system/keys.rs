//! Keys that a server holds, while servers run (AS-2, OPS-10): those of the AS and the QS, the DS's, and the one of push
//! services are renewed, rotated and revoked; a root certifies the AS's. What one process makes, or the operator changes,
//! every other one uses within seconds.

use std::{path::Path, time::Duration};

use postern_protocol::{
    IssuerCertificate, PublicKey,
    auth::{AuthenticationKeys, CredentialIssued, SignCredential},
    credential::ClientCredential,
    ds::{GroupIdReserved, MessageAccepted},
    key::PublishedKey,
    mls::{GroupPolicy, Pseudonym},
    problem::ProblemType,
    push::{AddressPush, PushKey, Urgency},
    qs::{KeyPackageBatch, QueueKind, QueuingKeys},
};
use postern_tests_kit::{
    Call, Commit, Friendship, Group, PushService, Server, User, World, creation, depositing, eventually,
    fetching, fresh_stock, now, packages, policy_extensions, postern,
};
use reqwest::StatusCode;

use crate::bad_days::assert_nothing_failed;

const DAY: u64 = 24 * 60 * 60;

/// Waits as [`eventually`] does, with looks that cost a token each: three a second.
async fn eventually_paid<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    eventually(what, async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        look().await
    })
    .await
}

/// Lets days pass for the signing keys.
async fn pass_days(world: &World, days: i32) {
    let sql = format!(
        "UPDATE auth.signing_keys SET not_before = not_before - {days}, not_after = not_after - {days}"
    );
    world.admin.batch_execute(&sql).await.expect("days can pass");
}

async fn as_keys(world: &World, server: usize) -> AuthenticationKeys {
    world.send_to(&world.servers[server], &Call::get("/as/keys").wire()).await.decode()
}

async fn qs_keys(world: &World, server: usize) -> QueuingKeys {
    world.send_to(&world.servers[server], &Call::get("/qs/keys").wire()).await.decode()
}

/// The keys that each server publishes of AS and QS, once all publish the same and they are as expected.
async fn published(
    world: &World,
    what: &str,
    expected: impl Fn(&AuthenticationKeys, &[PublishedKey]) -> bool,
) -> (AuthenticationKeys, Vec<PublishedKey>) {
    eventually(what, async || {
        let first = (as_keys(world, 0).await, qs_keys(world, 0).await.keys);
        for server in 1..world.servers.len() {
            if (as_keys(world, server).await, qs_keys(world, server).await.keys) != first {
                return None;
            }
        }
        expected(&first.0, &first.1).then_some(first)
    })
    .await
}

/// The key that signs a credential for a user's client at a server.
async fn credential_by(world: &World, server: usize, user: &User) -> ClientCredential {
    let call = Call::post("/as/credentials").with(&SignCredential {}).signed_by(&user.device.key);
    let reply = world.send_to(&world.servers[server], &world.paid(call).wire()).await;
    let issued: CredentialIssued = reply.decode();
    let keys = as_keys(world, server).await;
    let claim = ClientCredential::parse(&issued.credential).unwrap();
    let key = keys.keys.iter().find(|key| key.public_key == claim.issuer_key).expect("it is published");
    assert!(key.is_valid_at(now()), "no expired key signs");
    assert!(claim.not_after <= key.not_after, "a credential ends before its key does");
    ClientCredential::verify(&issued.credential, claim.issuer_key, now()).expect("it verifies")
}

/// The key that signs a batch of KeyPackages at a server.
async fn batch_by(world: &World, server: usize, friendship: &Friendship) -> PublicKey {
    let call = world.paid(fetching(friendship.token)).wire();
    let batch: KeyPackageBatch = world.send_to(&world.servers[server], &call).await.decode();
    batch.verify(&qs_keys(world, server).await, now(), 60).expect("a published key signed it, now");
    batch.issuer_key
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_keys_are_published_before_they_sign_overlap_and_go_in_running_processes() {
    let world = World::builder().servers(2).tokens(400).start().await;
    let alice = world.user("alice").await;
    let one_each = |auth: &AuthenticationKeys, qs: &[PublishedKey]| auth.keys.len() == 1 && qs.len() == 1;
    let (first, first_qs) = published(&world, "one key of each", one_each).await;
    let old = first.keys[0].public_key;
    assert!(first.keys[0].not_after > now() + 364 * DAY);
    assert_eq!(credential_by(&world, 1, &alice).await.issuer_key, old);

    // Ninety-nine days are left: a successor is made, and signs only when no cached list is without it.
    let passed = now();
    pass_days(&world, 266).await;
    let two_each = |auth: &AuthenticationKeys, qs: &[PublishedKey]| auth.keys.len() == 2 && qs.len() == 2;
    let (both, both_qs) = published(&world, "both publish a successor", two_each).await;
    let new = both.keys.iter().find(|key| key.public_key != old).unwrap();
    assert!(new.not_before > passed + 60 * 60 - 60, "after every cached list ran out");
    assert!(both_qs.iter().any(|key| key.public_key == first_qs[0].public_key));
    for server in [0, 1] {
        assert_eq!(credential_by(&world, server, &alice).await.issuer_key, old);
    }

    pass_days(&world, 3).await;
    for server in [0, 1] {
        eventually_paid("the new key signs", async || {
            (credential_by(&world, server, &alice).await.issuer_key == new.public_key).then_some(())
        })
        .await;
    }
    pass_days(&world, 98).await;
    let (_, last_qs) = published(&world, "the old keys go", one_each).await;
    assert_ne!(last_qs, first_qs);
    eventually("their rows go", async || {
        (world.count("auth.signing_keys WHERE service <> 'federation'").await == 2).then_some(())
    })
    .await;

    // In one leap: all ended, and there are others at once.
    pass_days(&world, 400).await;
    let other = |auth: &AuthenticationKeys, qs: &[PublishedKey]| {
        one_each(auth, qs) && auth.keys[0].public_key != new.public_key && auth.keys[0].is_valid_at(now())
    };
    published(&world, "both publish another", other).await;
    for server in [0, 1] {
        credential_by(&world, server, &alice).await;
    }
    // The look for keys of one may have been under way when they ended.
    world.servers.iter().for_each(assert_nothing_failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_rotates_signing_keys_with_overlap_and_revokes_them_at_once() {
    let world = World::builder().servers(2).tokens(400).start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let alice = world.user("alice").await;
    let old = credential_by(&world, 0, &alice).await.issuer_key;

    operator.execute("SELECT operator.rotate_signing_keys('as')", &[]).await.unwrap();
    let rotated = |auth: &AuthenticationKeys, qs: &[PublishedKey]| auth.keys.len() == 2 && qs.len() == 1;
    let (keys, _) = published(&world, "a new key of the AS, and none of the QS", rotated).await;
    let left = keys.keys.iter().find(|key| key.public_key == old).unwrap().not_after - now();
    assert!((99 * DAY..101 * DAY + 1).contains(&left), "what it signed lasts: {left}");
    assert_eq!(credential_by(&world, 1, &alice).await.issuer_key, old, "until the new one may");

    // One key may be known to somebody: the other one signs, though its day has not come.
    operator.execute("SELECT operator.revoke_signing_key($1)", &[&old.as_bytes().as_slice()]).await.unwrap();
    let revoked = |auth: &AuthenticationKeys, _: &[PublishedKey]| {
        auth.revoked == [old] && auth.keys.len() == 1 && auth.keys[0].is_valid_at(now())
    };
    let (keys, _) = published(&world, "the old key is revoked", revoked).await;
    let second = keys.keys[0].public_key;
    for server in [0, 1] {
        assert_eq!(credential_by(&world, server, &alice).await.issuer_key, second);
    }

    // All of both services.
    let friendship = Friendship::new();
    let stock = friendship.publishing(fresh_stock(), &packages(10));
    world.pay(&stock).await.assert_ok("KeyPackages");
    let of_the_qs = batch_by(&world, 0, &friendship).await;
    for service in ["as", "qs"] {
        let sql = "SELECT operator.rotate_signing_keys($1, revoke => true)";
        operator.execute(sql, &[&service]).await.unwrap();
    }
    let replaced = |auth: &AuthenticationKeys, qs: &[PublishedKey]| {
        auth.revoked.contains(&old)
            && auth.revoked.contains(&second)
            && auth.keys.len() == 1
            && qs.len() == 1
            && qs[0].public_key != of_the_qs
    };
    let (keys, of_qs) = published(&world, "new keys at once", replaced).await;
    for server in [0, 1] {
        assert_eq!(credential_by(&world, server, &alice).await.issuer_key, keys.keys[0].public_key);
        assert_eq!(batch_by(&world, server, &friendship).await, of_qs[0].public_key);
    }
    let kept = "SELECT count(*) FROM auth.signing_keys WHERE revoked IS NOT NULL AND sealed_seed IS NOT NULL";
    assert_eq!(world.value::<i64>(kept).await, 0, "the secrets of revoked keys are gone");

    let revoked = "SELECT count(*) FROM operator.signing_keys() WHERE service = 'as' AND revoked IS NOT NULL";
    assert_eq!(operator.query_one(revoked, &[]).await.unwrap().get::<_, i64>(0), 2);
    for (bad, hint) in [
        ("operator.rotate_signing_keys('ds')", "as signs client credentials"),
        ("operator.rotate_signing_keys(NULL)", "as signs client credentials"),
        ("operator.revoke_signing_key('\\x00')", "operator.signing_keys() lists all"),
        ("operator.set_signing_key_rotation(185)", "at least twice as long"),
        ("operator.set_signing_key_rotation(NULL, 92)", "at least 93 days"),
    ] {
        let refused = operator.execute(&format!("SELECT {bad}"), &[]).await.unwrap_err();
        let found = refused.as_db_error().and_then(|error| error.hint()).unwrap_or_default().to_owned();
        assert!(found.contains(hint), "{bad}: {found}");
    }
    operator.execute("SELECT operator.set_signing_key_rotation(200, overlap_days => 95)", &[]).await.unwrap();
    let row = operator.query_one("SELECT * FROM operator.signing_key_rotation()", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (200, 95));
}

/// Runs `postern root` and returns what it printed.
async fn root(arguments: &[&str]) -> Result<String, String> {
    let output = postern().arg("root").args(arguments).output().await.expect("postern runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text").trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn bytes(sql_hex: &str) -> Vec<u8> {
    hex::decode(sql_hex.trim_start_matches("\\x")).expect("it is hex")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_root_certifies_the_keys_that_sign_credentials() {
    let world = World::builder().servers(2).tokens(400).start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let alice = world.user("alice").await;
    let first = credential_by(&world, 0, &alice).await.issuer_key;
    let file = world.homes.path().join("root.key");
    let path = |file: &Path| file.to_str().unwrap().to_owned();
    let root_key = root(&["new", &path(&file)]).await.unwrap();
    assert_eq!(root(&["show", &path(&file)]).await.unwrap(), root_key);
    assert!(
        root(&["new", &path(&file)]).await.unwrap_err().contains("cannot write"),
        "it overwrites nothing"
    );
    let root_public = PublicKey::try_from(bytes(&root_key).as_slice()).unwrap();
    let sign = async |key: &PublicKey| {
        let key = hex::encode(key.as_bytes());
        let arguments = ["sign", &path(&file), "--domain", "home.example", "--key", &key, "--days", "300"];
        bytes(&root(&arguments).await.unwrap())
    };
    let certify = "SELECT operator.certify_signing_key($1)";

    let certificate = sign(&first).await;
    let refused = operator.execute(certify, &[&sign(&root_public).await]).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("no signing key of this AS"), "{refused:?}");
    operator.execute(certify, &[&certificate]).await.unwrap();
    let shown: Option<Vec<u8>> = operator.query_one("SELECT operator.root_key()", &[]).await.unwrap().get(0);
    assert_eq!(shown.as_deref(), Some(root_public.as_bytes().as_slice()));
    let has_root = |auth: &AuthenticationKeys, _: &[PublishedKey]| auth.root == Some(root_public);
    let (keys, _) = published(&world, "both publish the root", has_root).await;
    assert_eq!(keys.certificates, [IssuerCertificate::new(certificate)]);
    for server in [0, 1] {
        let call = Call::post("/as/credentials").with(&SignCredential {}).signed_by(&alice.device.key);
        let reply = world.send_to(&world.servers[server], &world.paid(call).wire()).await;
        let issued: CredentialIssued = reply.decode();
        ClientCredential::verify_chain(&issued.credential, root_public, now()).expect("the root vouches");
        let claim = ClientCredential::parse(&issued.credential).unwrap();
        assert!(claim.not_after < now() + 91 * DAY);
    }

    // A new key signs once it is certified, even when its day has come.
    operator.execute("SELECT operator.rotate_signing_keys('as')", &[]).await.unwrap();
    let two = |auth: &AuthenticationKeys, _: &[PublishedKey]| auth.keys.len() == 2;
    let (keys, _) = published(&world, "a new key", two).await;
    let second = keys.keys.iter().map(|key| key.public_key).find(|key| *key != first).unwrap();
    pass_days(&world, 3).await;
    published(&world, "its day has come", |auth, _| auth.keys.iter().all(|key| key.is_valid_at(now()))).await;
    assert_eq!(credential_by(&world, 0, &alice).await.issuer_key, first);
    operator.execute(certify, &[&sign(&second).await]).await.unwrap();
    for server in [0, 1] {
        eventually_paid("the certified one signs", async || {
            (credential_by(&world, server, &alice).await.issuer_key == second).then_some(())
        })
        .await;
    }
    let certified = "SELECT bool_and(certified) FROM operator.signing_keys() WHERE service = 'as'";
    assert!(operator.query_one(certified, &[]).await.unwrap().get::<_, bool>(0));

    // A certificate by anybody else is none, whatever it says.
    let other = world.homes.path().join("other.key");
    root(&["new", &path(&other)]).await.unwrap();
    let key = hex::encode(second.as_bytes());
    let forged = root(&["sign", &path(&other), "--domain", "home.example", "--key", &key]).await.unwrap();
    let refused = operator.execute(certify, &[&bytes(&forged)]).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("another key is the root"), "{refused:?}");
    let mut forged = sign(&second).await;
    *forged.last_mut().unwrap() ^= 1;
    operator.execute(certify, &[&forged]).await.unwrap();
    eventually_paid("the server signs with the first again", async || {
        (credential_by(&world, 0, &alice).await.issuer_key == first).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("root.key");
    let path = file.to_str().unwrap();
    root(&["new", path]).await.unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(root(&["show", path]).await.unwrap_err().contains("chmod 600"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let bad = root(&["sign", path, "--domain", "home.example", "--key", "00"]).await.unwrap_err();
    assert!(bad.contains("--key is no Ed25519 key"), "{bad}");
    std::fs::write(&file, "not a key").unwrap();
    assert!(root(&["show", path]).await.unwrap_err().contains("holds no root"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_external_sender_key_is_for_new_groups_and_the_old_one_goes_on_in_old_ones_until_they_take_it()
{
    let mut world = World::builder().servers(2).tokens(400).start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let mut group = world.group(2).await;
    let old = world.server_key();
    operator.execute("SELECT operator.rotate_sender_keys()", &[]).await.unwrap();
    let reserve = async |world: &World, server: usize| -> GroupIdReserved {
        let call = world.paid(Call::post("/ds/group-ids")).wire();
        world.send_to(&world.servers[server], &call).await.decode()
    };
    let reserved = eventually_paid("one server has a new key", async || {
        let reserved = reserve(&world, 0).await;
        (reserved.server_key != old).then_some(reserved)
    })
    .await;

    // The other may not have heard of it: a group that carries it is taken all the same.
    let mut founder = world.candidate().await;
    let policy = GroupPolicy::new(Pseudonym(founder.party.identity.as_slice().try_into().unwrap()));
    let context = policy_extensions(world.domain(), &policy, &reserved.server_key);
    founder.party.found(&reserved.group_id.to_mls(), context);
    let call = world.paid(creation(&reserved.group_id, policy.state_key(), &founder.party)).wire();
    world.send_to(&world.servers[1], &call).await.assert_ok("a group with the new key");

    // The old group goes on at both, and the DS proposes there with the key that it carries.
    for server in [0, 1] {
        let (_, commit) = group.make(0, Commit { update: true, ..Commit::default() });
        let call = world.paid(commit).wire();
        let accepted: MessageAccepted = world.send_to(&world.servers[server], &call).await.decode();
        assert_eq!(accepted.server_key, Some(reserved.server_key), "it is told the new key");
        group.party(0).merge();
    }
    let gone = group.members[1].mailbox.deleting(vec![group.members[1].address]);
    world.pay(&gone).await.assert_ok("the other member's queue goes");
    let message = group.party(0).say(b"hello?");
    world.pay(&group.submit(0, &message, None)).await.assert_ok("a message");
    world.await_message(&mut group.members[0]).await;
    assert_eq!(group.party(0).evictions, 1, "the DS proposes with the old key");

    // A revoked key signs nothing, and begins no group; an old group goes on.
    operator.execute("SELECT operator.rotate_sender_keys(revoke => true)", &[]).await.unwrap();
    let newest = eventually_paid("there is another key", async || {
        let newest = reserve(&world, 1).await;
        (newest.server_key != reserved.server_key && newest.server_key != old).then_some(newest)
    })
    .await;
    let mut late = world.candidate().await;
    let policy = GroupPolicy::new(Pseudonym(late.party.identity.as_slice().try_into().unwrap()));
    late.party.found(&newest.group_id.to_mls(), policy_extensions(world.domain(), &policy, &old));
    let call = creation(&newest.group_id, policy.state_key(), &late.party);
    let refused = world.send_to(&world.servers[1], &world.paid(call).wire()).await;
    refused.assert_problem("a group with a revoked key", ProblemType::InvalidMls);
    let (_, commit) = group.make(0, Commit { update: true, ..Commit::default() });
    world.pay(&commit).await.assert_ok("a commit to a group with a revoked key");
    group.party(0).merge();
    // It takes the new one, also at a server that has not heard of it, and a revoked one no more.
    let taking = |group: &mut Group, key: &PublicKey| {
        let context = Some(policy_extensions(&group.domain, &group.policy, key));
        group.make(0, Commit { context, ..Commit::default() }).1
    };
    let commit = taking(&mut group, &newest.server_key);
    let accepted: MessageAccepted = world.pay(&commit).await.decode();
    assert_eq!(accepted.server_key, None, "it has it");
    group.party(0).merge();
    let commit = taking(&mut group, &reserved.server_key);
    world.pay(&commit).await.assert_problem("a revoked key", ProblemType::InvalidMls);
    let sql = "SELECT count(*), count(*) FILTER (WHERE replaced), count(*) FILTER (WHERE revoked)
                 FROM operator.sender_keys()";
    let row = operator.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (3, 2, 2));

    // A server that starts now has all of it.
    let server = Server::start(&world.cluster).await;
    world.servers.push(server);
    assert_eq!(reserve(&world, 2).await.server_key, newest.server_key);
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_for_push_services_leaves_old_subscriptions_alone_until_the_old_one_is_revoked() {
    let world = World::builder().servers(2).pushing().tokens(400).start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let mut service = PushService::start().await;
    let key_of = async |server: usize| qs_keys(&world, server).await.application_server_key.unwrap();
    let old = key_of(0).await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let key = PushKey::generate().unwrap();
    let (subscription, _) = service.subscribe("/", b"look");
    let sealed = subscription.seal(&mailbox.id, &key).unwrap();
    world.pay(&mailbox.subscribing(Some(sealed))).await.assert_ok("subscribing");
    let push = AddressPush { at_least: Urgency::Normal, key }.seal(&address).unwrap();
    let policy = postern_protocol::qs::PushPolicy { address, push: Some(push) };
    world.pay(&mailbox.setting_push_policy(vec![policy])).await.assert_ok("a policy");

    operator.execute("SELECT operator.rotate_application_server_keys()", &[]).await.unwrap();
    for server in [0, 1] {
        eventually("the new key is published", async || (key_of(server).await != old).then_some(())).await;
    }
    let new = key_of(0).await;
    assert_eq!(key_of(1).await, new);
    // The push service knows that the subscription is for the old key.
    service.answer(StatusCode::FORBIDDEN, reqwest::header::HeaderMap::new());
    world.pay(&depositing(address, b"hello")).await.assert_ok("a deposit");
    service.pushed().await.assert_sent_by(&new, service.url());
    service.pushed().await.assert_sent_by(&old, service.url());
    assert_eq!(world.count("qs.push_subscriptions").await, 1);

    let sql = "SELECT operator.rotate_application_server_keys(revoke => true)";
    operator.execute(sql, &[]).await.unwrap();
    for server in [0, 1] {
        eventually("another key is published", async || {
            let published = key_of(server).await;
            (published != old && published != new).then_some(())
        })
        .await;
    }
    let shown = operator.query("SELECT replaced FROM operator.application_server_keys()", &[]).await.unwrap();
    assert_eq!(shown.iter().map(|row| row.get::<_, bool>(0)).collect::<Vec<_>>(), [false]);
    service.answer(StatusCode::FORBIDDEN, reqwest::header::HeaderMap::new());
    world.pay(&depositing(address, b"again")).await.assert_ok("a deposit");
    service.pushed().await.assert_sent_by(&key_of(0).await, service.url());
    eventually("the subscription is over", async || {
        (world.count("qs.push_subscriptions").await == 0).then_some(())
    })
    .await;
    world.close();
}
