//! Discovery of other homeservers (FED-1): what is fetched, verified, pinned and kept, and what is refused.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use postern_protocol::{
    PublicKey,
    federation::{Description, HomeserverShown, KeySignature, KnownKeys, ServerKey},
    key::SigningKey,
    name::Domain,
    oblivious::REQUEST_MEDIA_TYPE,
    problem::ProblemType,
};
use postern_tests_kit::{Authority, Call, Cluster, FalseHomeserver, Reply, Server, World, eventually, now};
use tokio_postgres::Client as Connection;

use crate::own_address;

pub const OTHER: &str = "other.example";

fn other() -> Domain {
    OTHER.parse().unwrap()
}

/// The world of one homeserver that finds another at this address.
async fn world(authority: &Authority, address: SocketAddr) -> World {
    world_with(authority, &format!("{OTHER}={address}")).await
}

/// The world of one homeserver that finds these hosts.
async fn world_with(authority: &Authority, hosts: &str) -> World {
    World::builder()
        .setting("POSTERN_FEDERATION_HOSTS", hosts)
        .setting("POSTERN_FEDERATION_TRUSTED_ROOTS", &authority.file().display().to_string())
        // A look costs one, and some looks wait for what the other server does by the clock.
        .tokens(300)
        .start()
        .await
}

/// A server of the other domain, listening where others look for it.
async fn serve(cluster: &Cluster, authority: &Authority, listen: Option<SocketAddr>) -> Server {
    let server = Server::builder(cluster).env("POSTERN_DOMAIN", OTHER).tls(&authority.certify(&[OTHER]));
    server.listen(listen.unwrap_or_else(own_address)).start().await
}

async fn ask(world: &World) -> Reply {
    world.pay(&Call::get(format!("/homeservers/{OTHER}"))).await
}

pub async fn shown(world: &World) -> Description {
    let shown: HomeserverShown = ask(world).await.decode();
    Description::from_json(shown.description.as_bytes()).expect("it is a description")
}

/// The reason for which the other homeserver is not known.
pub async fn refusal(world: &World) -> String {
    let problem = ask(world).await.assert_problem("the other homeserver", ProblemType::HomeserverUnknown);
    problem.detail.expect("the reason is told")
}

/// Waits until the last looks, so many, are noted as failed. A look goes on while the description before it serves.
async fn failed(world: &World, times: i32) {
    eventually("the look has failed", async || {
        (world.value::<i32>("SELECT failures FROM federation.looks").await == times).then_some(())
    })
    .await;
}

/// The time comes for another look.
async fn pass_an_hour(world: &World) {
    let sql = "UPDATE federation.looks SET looked = looked - interval '61 minutes'";
    world.admin.execute(sql, &[]).await.expect("time can pass");
}

/// The same, and what is shown to people is chosen anew.
async fn pass_a_day(world: &World) {
    pass_an_hour(world).await;
    world.admin.execute("UPDATE federation.shown SET day = day - 1", &[]).await.expect("time can pass");
}

async fn pinned(world: &World) -> Vec<PublicKey> {
    let sql =
        "SELECT public_key FROM federation.homeserver_keys WHERE distrusted IS NULL ORDER BY public_key";
    let rows = world.admin.query(sql, &[]).await.expect("it can be read");
    rows.iter().map(|row| PublicKey::try_from(row.get::<_, &[u8]>(0)).unwrap()).collect()
}

async fn operate(operator: &Connection, what: &str) {
    operator.execute(&format!("SELECT {what}"), &[]).await.unwrap_or_else(|error| panic!("{what}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_homeserver_is_found_pinned_kept_and_known_by_its_next_keys() {
    let authority = Authority::new();
    let cluster = Cluster::start().await;
    let server = serve(&cluster, &authority, None).await;
    let address = server.address();
    let world = world(&authority, address).await;
    let operator = cluster.connect_as("postern_operator").await;

    let first = shown(&world).await;
    let keys = first.verify(&other(), &KnownKeys::default(), now()).expect("a client verifies it, too");
    assert_eq!(pinned(&world).await, keys);
    let row = world.admin.query_one("SELECT * FROM operator.homeservers()", &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, &str>("domain"), row.get::<_, &str>("base_url")),
        (OTHER, "https://other.example")
    );

    // It is down: what was seen is good for a day, and looks are not made for every request.
    server.kill().await;
    assert_eq!(shown(&world).await, first);
    pass_an_hour(&world).await;
    assert_eq!(shown(&world).await, first, "it cannot be looked at");
    failed(&world, 1).await;
    assert_eq!(shown(&world).await, first);
    let failures: i32 = world.value("SELECT failures FROM federation.looks").await;
    assert_eq!(failures, 1, "the next look is not due");

    // Its keys change twice while nobody looks.
    let server = serve(&cluster, &authority, Some(address)).await;
    let admin = cluster.admin().await;
    for number in 2..4i64 {
        operate(&operator, "operator.rotate_signing_keys('federation')").await;
        eventually("there is another key", async || {
            let sql = "SELECT count(*) FROM operator.signing_keys() WHERE service = 'federation'";
            (admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == number).then_some(())
        })
        .await;
        let sql = "UPDATE auth.signing_keys SET not_before = not_before - 120, not_after = not_after - 120
                    WHERE service = 'federation'";
        admin.execute(sql, &[]).await.unwrap();
    }
    eventually("the new keys are shown", async || {
        pass_a_day(&world).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        (shown(&world).await.keys.len() == 3).then_some(())
    })
    .await;
    let latest = shown(&world).await;
    assert!(
        latest.signatures.iter().all(|signature| !keys.contains(&signature.key)),
        "the first key has ended"
    );
    // The second one had ended when it was seen for the first time.
    let known = pinned(&world).await;
    assert_eq!(known.len(), 2);
    assert!(latest.keys.iter().filter(|key| key.endorsement.is_none()).count() == 1);

    // A key that its owner revokes is nothing any more.
    let revoked = *known.iter().find(|key| keys.contains(key)).expect("the first one is known");
    let sql = "SELECT operator.revoke_signing_key($1)";
    operator.execute(sql, &[&revoked.as_bytes().as_slice()]).await.unwrap();
    eventually("the key is distrusted", async || {
        pass_a_day(&world).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        shown(&world).await;
        (!pinned(&world).await.contains(&revoked)).then_some(())
    })
    .await;
    let refused = operator.execute("SELECT operator.rotate_signing_keys('federation', revoke => true)", &[]);
    assert!(refused.await.is_err(), "nobody would know the next key");
    assert!(!server.log().contains("ERROR"), "{}", server.log());
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_lost_its_keys_is_unknown_until_the_operator_accepts_it() {
    let authority = Authority::new();
    let (old, new) = (Cluster::start().await, Cluster::start().await);
    let server = serve(&old, &authority, None).await;
    let address = server.address();
    let world = world(&authority, address).await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let first = shown(&world).await;
    let before = pinned(&world).await;

    server.kill().await;
    let _server = serve(&new, &authority, Some(address)).await;
    pass_an_hour(&world).await;
    assert_eq!(shown(&world).await, first, "the description that was signed holds");
    failed(&world, 1).await;
    world.admin.execute("UPDATE federation.homeservers SET expires = 1", &[]).await.unwrap();
    pass_an_hour(&world).await;
    let why = refusal(&world).await;
    assert!(why.contains("no key that is known, or endorsed by one that is, signed it"), "{why}");
    assert_eq!(pinned(&world).await, before);
    let why = refusal(&world).await;
    assert!(why.contains("the next one is not due yet"), "{why}");

    operate(&operator, "operator.accept_homeserver_keys('other.example')").await;
    let second = shown(&world).await;
    assert_ne!(second.keys[0].public_key, first.keys[0].public_key);
    assert_eq!(pinned(&world).await, [second.keys[0].public_key]);
    world.close();
}

/// A description of the other domain, signed by this key.
pub fn described(key: &SigningKey, change: impl FnOnce(&mut Description)) -> Vec<u8> {
    let own = ServerKey {
        public_key: key.public_key(),
        not_before: now() - 100,
        not_after: now() + 1000,
        endorsement: None,
    };
    let mut description = Description {
        domain: other(),
        versions: vec![1],
        base_url: "https://other.example".to_owned(),
        keys: vec![own],
        revoked: Vec::new(),
        gateway_keys: postern_protocol::Payload::new(vec![1]),
        issuer: postern_protocol::aas::IssuerDirectory {
            issuer_request_uri: "/aas/token-request".to_owned(),
            token_keys: Vec::new(),
        },
        relays_for_others: true,
        generation: 0,
        issued: now(),
        expires: now() + 1000,
        signatures: Vec::new(),
    };
    change(&mut description);
    if description.signatures.is_empty() {
        description.sign(key);
    }
    serde_json::to_vec(&description).expect("it is JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_prove_to_be_the_homeserver_is_refused_and_changes_nothing() {
    let authority = Authority::new();
    let files = authority.certify(&[OTHER]);
    let key = SigningKey::generate();
    let plain = |status: &str, more: &str| {
        format!("HTTP/1.1 {status}\r\n{more}content-length: 0\r\n\r\n").into_bytes()
    };
    let json = |change: fn(&mut Description)| FalseHomeserver::json(&described(&key, change));
    let endless =
        [&b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"[..], &vec![b' '; 1 << 20]].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a redirect", plain("302 Found", "location: https://other.example/x\r\n"), "status 302"),
        ("no description", plain("404 Not Found", ""), "status 404"),
        ("something else", FalseHomeserver::json(b"{}"), "it is no description"),
        ("too much", endless, "it is no description"),
        ("no HTTP", b"garbage\r\n\r\n".to_vec(), "does not answer over TLS"),
        ("another domain's", json(|it| it.domain = "third.example".parse().unwrap()), "of another domain"),
        ("another version", json(|it| it.versions = vec![9]), "speaks no version"),
        ("of yesterday", json(|it| it.expires = now() - 1), "not valid at this time"),
        ("of tomorrow", json(|it| it.issued = now() + 86_400), "not valid at this time"),
        ("a private base URL", json(|it| it.base_url = "https://10.0.0.1".to_owned()), "the base URL"),
        ("a base URL in clear", json(|it| it.base_url = "http://other.example".to_owned()), "the base URL"),
        (
            "a signature of something else",
            json(|it| {
                let key = it.keys[0].public_key;
                let signature = postern_protocol::Signature::new(vec![7; 64]);
                it.signatures.push(KeySignature { key, signature });
            }),
            "signature does not verify",
        ),
        ("signed by an ended key", json(|it| it.keys[0].not_after = now() - 1), "no key that is known"),
    ];
    let homeserver = FalseHomeserver::start(&files, Vec::new()).await;
    let world = world(&authority, homeserver.address()).await;
    for (number, (what, answer, expected)) in cases.into_iter().enumerate() {
        homeserver.answer(answer);
        world.admin.execute("DELETE FROM federation.looks", &[]).await.expect("it can be forgotten");
        let why = refusal(&world).await;
        assert!(why.contains(expected), "{what}: {why}");
        assert_eq!(homeserver.asked(), number + 1, "{what}");
        for table in ["homeservers", "homeserver_keys"] {
            assert_eq!(world.count(&format!("federation.{table}")).await, 0, "{what}: {table}");
        }
    }
    world.close();
}

/// Anybody can describe a homeserver, and say that it is at a host that this server reaches on a private network.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_address_the_operator_set_is_called_for_its_own_domain_and_those_that_are_allowed() {
    const PARTNER: &str = "https://chat.partner.example";
    let authority = Authority::new();
    let key = SigningKey::generate();
    let at =
        |base_url: &str| FalseHomeserver::json(&described(&key, |it| base_url.clone_into(&mut it.base_url)));
    let homeserver = FalseHomeserver::start(&authority.certify(&[OTHER]), Vec::new()).await;
    let nothing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec();
    let partner = FalseHomeserver::start(&authority.certify(&["chat.partner.example"]), nothing).await;
    let (own, other) = (homeserver.address(), partner.address());
    let hosts = format!("{OTHER}={own},chat.{OTHER}={own},chat.partner.example={other}");
    let world = world_with(&authority, &hosts).await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let relay = async || {
        let call = Call::post(format!("/relay/{OTHER}")).with_bytes(REQUEST_MEDIA_TYPE, vec![7; 100]);
        world.pay(&call).await
    };
    let forget = async || {
        let sql = "DELETE FROM federation.looks; DELETE FROM federation.homeservers";
        world.admin.batch_execute(sql).await.expect("it can be forgotten");
    };
    for base_url in [PARTNER, &format!("{PARTNER}:{}", other.port()), "https://chat.other.example:1"] {
        homeserver.answer(at(base_url));
        let why = refusal(&world).await;
        assert!(why.contains("the base URL is not one that this server may call"), "{base_url}: {why}");
        assert_eq!(world.count("federation.homeservers").await, 0, "{base_url}");
        forget().await;
    }
    assert_eq!(partner.asked(), 0, "nobody calls it");

    operate(&operator, "operator.allow_domain('other.example')").await;
    homeserver.answer(at(PARTNER));
    shown(&world).await;
    relay().await.assert_problem("it is no gateway", ProblemType::HomeserverRefused);
    let asked = partner.asked();
    assert!(asked > 0, "the operator says that it may be there");
    // The descriptions that were kept meanwhile count no more.
    operate(&operator, "operator.drop_domain_rule('other.example')").await;
    relay().await.assert_problem("not allowed any more", ProblemType::HomeserverUnknown);
    assert_eq!(partner.asked(), asked);

    forget().await;
    homeserver.answer(at("https://chat.other.example"));
    shown(&world).await;
    let base_url = "SELECT base_url FROM federation.homeservers";
    assert_eq!(
        world.value::<String>(base_url).await,
        "https://chat.other.example",
        "a host below the domain"
    );
    world.close();
}

/// An old key may have been found by somebody; and another's key is not one's own by naming it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_has_ended_and_a_key_of_another_are_not_the_homeservers() {
    let authority = Authority::new();
    let (old, new, third, victim) =
        (SigningKey::generate(), SigningKey::generate(), SigningKey::generate(), SigningKey::generate());
    let endorsed = |key: &SigningKey, by: &SigningKey| ServerKey {
        public_key: key.public_key(),
        not_before: now() - 100,
        not_after: now() + 1000,
        endorsement: Some(KeySignature::endorse(&other(), key.public_key(), by)),
    };
    let answer = |key: &SigningKey, more: Vec<ServerKey>| {
        FalseHomeserver::json(&described(key, |it| it.keys.extend(more)))
    };
    // It claims the victim's key, with its own endorsement.
    let first = answer(&old, vec![endorsed(&victim, &old)]);
    let homeserver = FalseHomeserver::start(&authority.certify(&[OTHER]), first).await;
    let world = world(&authority, homeserver.address()).await;
    shown(&world).await;
    assert_eq!(pinned(&world).await, [old.public_key()]);

    let described_by = |key: &SigningKey, by: &SigningKey| {
        FalseHomeserver::json(&described(key, |it| {
            it.keys = vec![endorsed(key, by)];
            it.issued += 1;
        }))
    };
    homeserver.answer(described_by(&new, &old));
    pass_an_hour(&world).await;
    shown(&world).await;
    eventually("the new key is pinned", async || (pinned(&world).await.len() == 2).then_some(())).await;

    // The old key ends. Its finder endorses another with it.
    let end = "UPDATE federation.homeserver_keys SET not_after = extract(epoch FROM now())::bigint - $1
                WHERE public_key = $2";
    world.admin.execute(end, &[&301i64, &old.public_key().as_bytes().as_slice()]).await.unwrap();
    homeserver.answer(described_by(&third, &old));
    pass_an_hour(&world).await;
    world.admin.execute("UPDATE federation.homeservers SET expires = 1", &[]).await.unwrap();
    let why = refusal(&world).await;
    assert!(why.contains("no key that is known, or endorsed by one that is, signed it"), "{why}");
    assert_eq!(pinned(&world).await.len(), 2);

    let token_key = world.issuer_key(postern_protocol::token::TokenType::PrivateRistretto255).await;
    world.admin.execute("SELECT operator.set_homeserver_allowance(100)", &[]).await.unwrap();
    for (key, allowed) in [(&new, true), (&old, false), (&victim, false)] {
        let ask = postern_tests_kit::Ask::batch(&token_key, 1);
        let reply = world.ask(0, key, ask.media_type, &ask.body).await;
        assert_eq!(reply.is_problem("not-allowed"), !allowed, "{}", reply.text());
    }
    // Once all have ended, the homeserver may have been away for long.
    world.admin.execute(end, &[&301i64, &new.public_key().as_bytes().as_slice()]).await.unwrap();
    homeserver.answer(described_by(&third, &new));
    world.admin.execute("DELETE FROM federation.looks", &[]).await.unwrap();
    shown(&world).await;
    assert_eq!(pinned(&world).await.len(), 3);
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_certified_or_does_not_answer_is_not_the_homeserver() {
    let authority = Authority::new();
    let key = SigningKey::generate();
    let good = FalseHomeserver::json(&described(&key, |_| ()));
    for (what, files) in [
        ("another authority", Authority::new().certify(&[OTHER])),
        ("another name", authority.certify(&["third.example"])),
        ("ended", authority.certify_for_days(&[OTHER], -1)),
    ] {
        let homeserver = FalseHomeserver::start(&files, good.clone()).await;
        let world = world(&authority, homeserver.address()).await;
        let why = refusal(&world).await;
        assert!(why.contains("does not answer over TLS"), "{what}: {why}");
        assert_eq!(homeserver.asked(), 0, "{what}");
        world.close();
    }
    let silent = FalseHomeserver::start(&authority.certify(&[OTHER]), Vec::new()).await;
    let world = world(&authority, silent.address()).await;
    let begun = Instant::now();
    let (one, two) = tokio::join!(refusal(&world), refusal(&world));
    assert!(begun.elapsed() < Duration::from_secs(60), "after {:?}", begun.elapsed());
    assert!(one.contains("does not answer") || two.contains("does not answer"), "{one} {two}");
    assert_eq!(silent.asked(), 1, "one look is enough for both");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_by_another_authority_is_found_once_the_file_of_authorities_has_that_one() {
    let (trusted, another) = (Authority::new(), Authority::new());
    let cluster = Cluster::start().await;
    let homeserver = serve(&cluster, &another, None).await;
    let world = world(&trusted, homeserver.address()).await;
    let why = refusal(&world).await;
    assert!(why.contains("does not answer over TLS"), "{why}");
    failed(&world, 1).await;

    // A file that is of no use changes nothing, and is told of.
    fs::write(trusted.file(), "no certificate").expect("it can be written");
    eventually("the log says so", async || {
        let told = "could not take over other authorities for homeservers: those before stay: ";
        world.server().log().contains(told).then_some(())
    })
    .await;
    fs::copy(another.file(), trusted.file()).expect("it can be copied");
    eventually("the log tells of it", async || {
        let told = "other homeservers are verified by other authorities from now on";
        world.server().log().contains(told).then_some(())
    })
    .await;
    pass_an_hour(&world).await;
    assert_eq!(shown(&world).await.domain, other());
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_domain_is_not_looked_at_and_its_tokens_are_refused_at_once() {
    let authority = Authority::new();
    let key = SigningKey::generate();
    let homeserver =
        FalseHomeserver::start(&authority.certify(&[OTHER]), FalseHomeserver::json(&described(&key, |_| ())))
            .await;
    let world = world(&authority, homeserver.address()).await;
    let operator = world.cluster.connect_as("postern_operator").await;
    operate(&operator, "operator.block_domain('other.example')").await;
    ask(&world).await.assert_problem("blocked", ProblemType::HomeserverBlocked);
    assert_eq!(homeserver.asked(), 0);
    operate(&operator, "operator.drop_domain_rule('other.example')").await;
    operate(&operator, "operator.set_federation_policy('allow_list')").await;
    ask(&world).await.assert_problem("not allowed", ProblemType::HomeserverBlocked);
    operate(&operator, "operator.allow_domain('other.example')").await;
    assert_eq!(shown(&world).await.keys[0].public_key, key.public_key());

    // The key that was found may have tokens, as long as the domain is allowed.
    let token_key = world.issuer_key(postern_protocol::token::TokenType::PrivateRistretto255).await;
    let tokens = async || {
        let ask = postern_tests_kit::Ask::batch(&token_key, 1);
        world.ask(0, &key, ask.media_type, &ask.body).await
    };
    operate(&operator, "operator.set_homeserver_allowance(100)").await;
    tokens().await.assert_ok("tokens of a known homeserver");
    operate(&operator, "operator.block_domain('other.example')").await;
    assert!(tokens().await.is_problem("homeserver-blocked"));
    ask(&world).await.assert_problem("blocked", ProblemType::HomeserverBlocked);
    operate(&operator, "operator.allow_domain('other.example')").await;
    tokens().await.assert_ok("tokens of an allowed homeserver");
    world.close();
}

/// Anybody has as many names as there are, and each may introduce itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_takes_the_place_of_one_that_is_idle_and_of_no_other() {
    let authority = Authority::new();
    let key = SigningKey::generate();
    let answer = FalseHomeserver::json(&described(&key, |_| ()));
    let homeserver = FalseHomeserver::start(&authority.certify(&[OTHER]), answer).await;
    let world = world(&authority, homeserver.address()).await;
    let operator = world.cluster.connect_as("postern_operator").await;
    operate(&operator, "operator.set_federation_limit('max_homeservers', 2)").await;
    let keep =
        "INSERT INTO federation.homeservers (domain, description, content, base_url, issued, expires, seen)
                VALUES ($1::text, '{}', sha256('{}'), 'https://x.example', 1, 1, current_date - 1)";
    let pin = "INSERT INTO federation.homeserver_keys (public_key, domain, pinned, not_after)
               VALUES (sha256($1::text::bytea), $1::text, current_date, 1)";
    for domain in ["idle.example", "used.example"] {
        for sql in [keep, pin] {
            world.admin.execute(sql, &[&domain]).await.expect("it can be kept");
        }
    }
    operate(&operator, "operator.allow_domain('used.example')").await;
    shown(&world).await;
    let domains = "SELECT array_agg(domain::text ORDER BY domain) FROM federation.";
    let (kept, keys) = ([OTHER, "used.example"], "homeserver_keys");
    assert_eq!(world.value::<Vec<String>>(&format!("{domains}homeservers")).await, kept);
    assert_eq!(world.value::<Vec<String>>(&format!("{domains}{keys}")).await, kept, "nothing is left of it");

    operate(&operator, "operator.allow_domain('other.example')").await;
    let third = world.pay(&Call::get("/homeservers/third.example")).await;
    let problem = third.assert_problem("all are in use", ProblemType::HomeserverUnknown);
    assert!(problem.detail.is_some_and(|why| why.contains("as many homeservers as it may")));
    // A neighbour whose description went is no stranger.
    world
        .admin
        .execute("DELETE FROM federation.homeservers WHERE domain <> 'used.example'", &[])
        .await
        .unwrap();
    world.admin.execute(keep, &[&"fourth.example"]).await.unwrap();
    operate(&operator, "operator.allow_domain('fourth.example')").await;
    world.admin.execute("DELETE FROM federation.looks", &[]).await.unwrap();
    shown(&world).await;
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_shown_the_same_on_one_day_however_often_a_homeserver_changes_its_keys() {
    const CHANGES: u8 = 3;
    let authority = Authority::new();
    let key = SigningKey::generate();
    let answer = |number: u8| {
        FalseHomeserver::json(&described(&key, |it| {
            it.gateway_keys = postern_protocol::Payload::new(vec![number]);
            it.issued += u64::from(number);
        }))
    };
    let homeserver = FalseHomeserver::start(&authority.certify(&[OTHER]), answer(1)).await;
    let world = world(&authority, homeserver.address()).await;
    let keys = |description: Description| description.gateway_keys.as_bytes().to_vec();
    let fresh = async || {
        pass_an_hour(&world).await;
        let reply = world.pay(&Call::get(format!("/homeservers/{OTHER}?fresh=true"))).await;
        let shown: HomeserverShown = reply.decode();
        keys(Description::from_json(shown.description.as_bytes()).expect("it is a description"))
    };
    assert_eq!(keys(shown(&world).await), [1]);
    homeserver.answer(answer(2));
    pass_an_hour(&world).await;
    assert_eq!(keys(shown(&world).await), [1], "those who look later are shown the same");
    eventually("this server knows", async || {
        let latest: Vec<u8> = world.value("SELECT description FROM federation.homeservers").await;
        (keys(Description::from_json(&latest).unwrap()) == [2]).then_some(())
    })
    .await;
    // Somebody for whom it does not serve moves all on, and nobody can do that often.
    for number in 2..2 + CHANGES {
        homeserver.answer(answer(number));
        assert_eq!(fresh().await, [number]);
        assert_eq!(keys(shown(&world).await), [number], "all see it");
    }
    homeserver.answer(answer(9));
    assert_eq!(fresh().await, [1 + CHANGES], "it changed too often");
    let expire = "UPDATE federation.shown SET expires = 1";
    world.admin.execute(expire, &[]).await.unwrap();
    let why = refusal(&world).await;
    assert!(why.contains("something else of itself too often"), "{why}");
    pass_a_day(&world).await;
    assert_eq!(keys(shown(&world).await), [9]);
    // A description that only has another time is the same one.
    let issued = async || world.value::<i64>("SELECT issued FROM federation.homeservers").await;
    let before = issued().await;
    homeserver.answer(FalseHomeserver::json(&described(&key, |it| {
        it.gateway_keys = postern_protocol::Payload::new(vec![9]);
        it.issued += 20;
    })));
    eventually("it is looked at", async || {
        pass_an_hour(&world).await;
        shown(&world).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        (issued().await > before).then_some(())
    })
    .await;
    let renewed = shown(&world).await;
    assert_eq!(i64::try_from(renewed.issued).unwrap(), issued().await, "it is shown as it is");
    assert_eq!(world.value::<i32>("SELECT changes FROM federation.shown").await, 0);
    world.close();
}

/// Both look at the same moment: neither sees the other's key.
#[tokio::test(flavor = "multi_thread")]
async fn two_domains_that_show_one_key_at_the_same_moment_do_not_both_get_it() {
    let world = World::builder().start().await;
    let (mut first, second) = (world.cluster.admin().await, world.cluster.admin().await);
    let keep = "SELECT outcome::text
                  FROM federation.keep_homeserver($1, '{}', sha256('{}'), 'https://x.example', 1, 1, ARRAY[$2::bytea],
                                                  ARRAY[1::bigint], ARRAY[$3::bigint], '{}')";
    let key = [7u8; 32];
    let begun = first.transaction().await.expect("it can begin");
    let kept = begun.query_one(keep, &[&"first.example", &key.as_slice(), &100i64]).await.unwrap();
    assert_eq!(kept.get::<_, &str>(0), "kept");
    let waiting = tokio::spawn(async move {
        let row = second.query_one(keep, &[&"second.example", &key.as_slice(), &200i64]).await.unwrap();
        row.get::<_, String>(0)
    });
    eventually("it waits for the first", async || {
        (world.count("pg_locks WHERE NOT granted").await > 0).then_some(())
    })
    .await;
    begun.commit().await.expect("nothing is in the way");
    assert_eq!(waiting.await.expect("it ends"), "key_of_another");
    let domains = "SELECT array_agg(domain::text) FROM federation.homeservers";
    assert_eq!(world.value::<Vec<String>>(domains).await, ["first.example"], "nothing is kept of the second");
    let ends: i64 = world.value("SELECT not_after FROM federation.homeserver_keys").await;
    assert_eq!(ends, 100, "how long a key is good is its own domain's to say");
    world.close();
}

/// Others may keep all looks busy, and the homeserver may be silent itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_holds_serves_while_the_look_at_its_homeserver_takes_long() {
    let authority = Authority::new();
    let answer = FalseHomeserver::json(&described(&SigningKey::generate(), |_| ()));
    let homeserver = FalseHomeserver::start(&authority.certify(&[OTHER]), answer).await;
    let world = world(&authority, homeserver.address()).await;
    let first = shown(&world).await;
    homeserver.answer(Vec::new());
    pass_an_hour(&world).await;
    for what in ["the first one", "the next one"] {
        let begun = Instant::now();
        assert_eq!(shown(&world).await, first, "{what}");
        // It would take ten.
        assert!(begun.elapsed() < Duration::from_secs(9), "{what} after {:?}", begun.elapsed());
    }
    failed(&world, 1).await;
    world.close();
}

/// A homeserver that was seen once is no neighbour: its keys are pinned.
#[tokio::test(flavor = "multi_thread")]
async fn only_those_that_took_a_delivery_or_are_allowed_are_proven() {
    let world = World::start().await;
    let pin = "INSERT INTO federation.homeserver_keys (public_key, domain, pinned, not_after)
               VALUES (sha256('1'), 'pinned.example', current_date, 1)";
    world.admin.execute(pin, &[]).await.unwrap();
    let lanes = "INSERT INTO federation.outgoing_lanes (domain, lane, instance, is_stranger, last_used)
                 VALUES ('stranger.example', 0, uuid_send(gen_random_uuid()), true, current_date)";
    world.admin.execute(lanes, &[]).await.unwrap();
    // Its lane went, since nothing was put in for long.
    let taker = "INSERT INTO federation.neighbours (domain, first_success, last_success)
                 VALUES ('taker.example', current_date - 50, current_date - 50)";
    world.admin.execute(taker, &[]).await.unwrap();
    world.admin.execute("SELECT operator.allow_domain('allowed.example')", &[]).await.unwrap();
    for (domain, is_proven) in [("pinned", false), ("stranger", false), ("taker", true), ("allowed", true)] {
        let sql = format!("SELECT federation.is_proven('{domain}.example')");
        assert_eq!(world.value::<bool>(&sql).await, is_proven, "{domain}");
    }
    world.close();
}

/// Anybody can name any number of hosts that take a connection and say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_many_silent_homeservers_looked_at_keeps_nobody_on_another_network_from_finding_one() {
    const SILENT: usize = 20;
    let authority = Authority::new();
    let names: Vec<String> = (0..SILENT).map(|number| format!("silent{number}.example")).collect();
    let silent = FalseHomeserver::start(
        &authority.certify(&names.iter().map(String::as_str).collect::<Vec<_>>()),
        Vec::new(),
    )
    .await;
    let answer = FalseHomeserver::json(&described(&SigningKey::generate(), |_| ()));
    let good = FalseHomeserver::start(&authority.certify(&[OTHER]), answer).await;
    let silent_hosts = names.iter().map(|name| format!("{name}={}", silent.address()));
    let hosts: Vec<_> = silent_hosts.chain([format!("{OTHER}={}", good.address())]).collect();
    let world = World::builder()
        .setting("POSTERN_FEDERATION_HOSTS", &hosts.join(","))
        .setting("POSTERN_FEDERATION_TRUSTED_ROOTS", &authority.file().display().to_string())
        .setting("POSTERN_FEDERATION_RELAY_SECONDS", "30")
        .setting("POSTERN_PROXY_ADDRESSES", "127.0.0.1")
        .setting("POSTERN_PROXY_SOURCE", "x-forwarded-for")
        .tokens(50)
        .start()
        .await;
    let look = async |from: &str, domain: &str| {
        let mut wire = world.paid(Call::get(format!("/homeservers/{domain}"))).wire();
        wire.set("x-forwarded-for", from);
        world.send(&wire).await
    };
    let looks = futures_util::future::join_all(names.iter().map(|name| look("192.0.2.1", name)));
    let found = async {
        eventually("silent ones are looked at", async || (silent.asked() > 1).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(silent.asked(), 2, "so many at once for one network");
        let begun = Instant::now();
        look("198.51.100.1", OTHER).await.assert_ok("somebody on another network");
        begun.elapsed()
    };
    let (_, found) = tokio::join!(looks, found);
    // The looks of the first network end after ten seconds.
    assert!(found < Duration::from_secs(9), "after {found:?}");
    world.close();
}
