//! The pipe between a client and the homeserver of another domain (FED-5): relay, gateway and attester.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use postern_protocol::{
    federation::{Description, HomeserverShown},
    key::SigningKey,
    name::Domain,
    problem::ProblemType,
    qs::{CreateQueue, QueueKind},
    token::{TokenType, token_key_id},
};
use postern_tests_kit::{
    Ask, Authority, Call, Capsule, FalseHomeserver, Neighbours, Reply, Weather, World, bytes_of, challenge,
    eventually, hpke_key, now,
};
use reqwest::{StatusCode, header::CONTENT_TYPE};
use tokio::{join, time::sleep};

/// The path on which a homeserver hands requests on to another one.
fn relay(to: &World) -> String {
    format!("/relay/{}", to.domain())
}

/// A request that goes by its homeserver to the gateway of another one, and the answer to it.
async fn through(home: &World, remote: &World, call: &Call) -> Reply {
    let capsule = Capsule::seal(&remote.gateway_keys().await, &call.wire());
    let reply = home.pay(&capsule.call(relay(remote))).await;
    capsule.open(&reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_through_the_pipe_is_answered_as_one_that_comes_by_itself_and_both_tokens_pay() {
    let neighbours = Neighbours::builder().tokens(50).start().await;
    let [home, remote] = [&neighbours[0], &neighbours[1]];
    // Neither knows the other before: each looks, and the remote one learns who hands on.
    let keys = through(home, remote, &Call::get("/as/keys").at(remote.domain())).await;
    let direct = remote.send(&Call::get("/as/keys").wire()).await;
    assert_eq!(keys.body, direct.body);
    assert_eq!(keys.header("cache-control"), direct.header("cache-control"));

    let owner = SigningKey::generate();
    let queue = CreateQueue { kind: QueueKind::Contact, hpke_key: hpke_key() };
    let call = remote.paid(Call::post("/qs/queues").with(&queue).signed_by(&owner));
    let capsule = Capsule::seal(&remote.gateway_keys().await, &call.wire());
    let outer = home.paid(capsule.call(relay(remote)));
    let reply = home.send(&outer.wire()).await;
    assert_eq!(capsule.open(&reply).status, StatusCode::CREATED);
    assert_eq!(remote.count("qs.queues").await, 1);
    assert!(remote.is_spent(&call.wire().nonce.unwrap()).await, "the inner token");
    assert!(home.is_spent(&outer.wire().nonce.unwrap()).await, "the outer one");

    // Signed for the remote domain as authority; refusals come as they do directly.
    let call = remote.paid(Call::post("/qs/queues").with(&queue)).signed_by(&owner).at(home.domain());
    let wrong = Capsule::seal(
        &remote.gateway_keys().await,
        &Call { authority: remote.domain().to_string(), ..call.clone() }.unsigned(),
    );
    let reply = home.pay(&wrong.call(relay(remote))).await;
    wrong.open(&reply).assert_problem("unsigned", ProblemType::SignatureRequired);
    let spent = through(
        home,
        remote,
        &Call { token: outer.token.clone(), ..remote.paid(Call::post("/ds/group-ids")) },
    )
    .await;
    spent.assert_problem("a token of the other domain", ProblemType::TokenRequired);
    assert_eq!(remote.count("qs.queues").await, 1);
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_with_another_key_introduces_itself_and_is_let_in_at_once() {
    let neighbours = Neighbours::builder().tokens(20).start().await;
    let [home, remote] = [&neighbours[0], &neighbours[1]];
    let ask = async || through(home, remote, &Call::get("/as/keys").at(remote.domain())).await;
    ask().await.assert_ok("it is known");
    let operator = home.cluster.connect_as("postern_operator").await;
    operator
        .execute("SELECT operator.rotate_signing_keys('federation')", &[])
        .await
        .expect("the operator may");
    eventually("there is another key", async || (home.description().await.keys.len() == 2).then_some(()))
        .await;
    // It is in use, and the first one has ended.
    let pass = "UPDATE auth.signing_keys SET not_before = not_before - 120, not_after = not_after - 120
                 WHERE service = 'federation'";
    home.admin.execute(pass, &[]).await.expect("time can pass");
    let first = remote.value::<Vec<u8>>("SELECT public_key FROM federation.homeserver_keys").await;
    eventually("it signs with the other one", async || {
        let signers = home.description().await.signatures;
        signers.iter().all(|signature| signature.key.as_bytes()[..] != first[..]).then_some(())
    })
    .await;
    let pass = "UPDATE federation.looks SET looked = looked - interval '2 minutes'";
    remote.admin.execute(pass, &[]).await.expect("time can pass");
    // It introduces itself no more often.
    sleep(Duration::from_secs(10)).await;
    ask().await.assert_ok("the other one looks at it again");
    assert_eq!(remote.count("federation.homeserver_keys").await, 2);
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_on_the_way_is_worth_nothing_again() {
    let neighbours = Neighbours::builder().tokens(50).start().await;
    let [home, remote] = [&neighbours[0], &neighbours[1]];
    let call = remote.paid(Call::post("/ds/group-ids"));
    let capsule = Capsule::seal(&remote.gateway_keys().await, &call.wire());
    let again = capsule.call(relay(remote));
    home.pay(&again).await.assert_ok("the first time");
    assert!(remote.is_spent(&call.wire().nonce.unwrap()).await, "the inner token");
    assert_eq!(remote.count("ds.reservations").await, 1, "it was done");
    let before = remote.snapshot().await;
    let reply = home.pay(&again).await;
    reply.assert_ok("it is handed on: nobody sees that it came before");
    // The context that sealed a request opens one answer.
    capsule.open(&reply).assert_problem("it came before", ProblemType::TokenSpent);
    remote.snapshot().await.assert_same(&before, "a sealed request that came before");

    // The server's own word for it is good once, too, and for this domain only.
    let key = SigningKey::generate();
    let sql = "SELECT operator.trust_homeserver_key('third.example', $1)";
    let public = key.public_key();
    remote.admin.execute(sql, &[&public.as_bytes().as_slice()]).await.unwrap();
    let capsule =
        Capsule::seal(&remote.gateway_keys().await, &Call::get("/as/keys").at(remote.domain()).wire());
    let handed_on = capsule.call("/gateway").signed_by(&key);
    let wire = handed_on.clone().at(remote.domain()).wire();
    remote.send(&wire).await.assert_ok("the first time");
    remote.assert_refused("the second time", &wire, ProblemType::SignatureUsed).await;
    let elsewhere = handed_on.at(home.domain()).wire();
    remote.assert_refused("for another domain", &elsewhere, ProblemType::SignatureRequired).await;
    let unsigned = Call { signer: None, ..capsule.call("/gateway") }.wire();
    remote.assert_refused("unsigned", &unsigned, ProblemType::SignatureRequired).await;
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_of_the_pipe_says_what_failed_there() {
    let neighbours = Neighbours::builder().bad_lines().tokens(1000).start().await;
    let [home, remote] = [&neighbours[0], &neighbours[1]];
    let keys = remote.gateway_keys().await;
    let send = async || {
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").at(remote.domain()).wire());
        home.pay(&capsule.call(relay(remote))).await
    };
    send().await.assert_ok("a good line");
    let operate = async |world: &World, what: &str| {
        let operator = world.cluster.connect_as("postern_operator").await;
        operator.execute(&format!("SELECT {what}"), &[]).await.expect("the operator may");
    };
    operate(home, "operator.block_domain('b.example')").await;
    let problem = send().await.assert_problem("blocked here", ProblemType::HomeserverBlocked);
    assert_eq!(problem.detail, None);
    operate(home, "operator.drop_domain_rule('b.example')").await;
    operate(remote, "operator.block_domain('a.example')").await;
    let problem = send().await.assert_problem("blocked there", ProblemType::HomeserverBlocked);
    assert!(problem.detail.unwrap().contains("the other one's operator"));
    operate(remote, "operator.drop_domain_rule('a.example')").await;
    send().await.assert_ok("not blocked");

    let line = neighbours.line(0, 1);
    for (weather, expected) in [
        (Weather::Cut, &[ProblemType::HomeserverUnreachable][..]),
        (Weather::Failing, &[ProblemType::Unavailable]),
        // Garbage may be an answer of HTTP that is not sealed.
        (Weather::Garbage, &[ProblemType::HomeserverUnreachable, ProblemType::HomeserverRefused]),
    ] {
        line.set(weather);
        let problem = send().await.problem(&format!("{weather:?}"));
        assert!(expected.contains(&problem.kind), "{weather:?}: {problem}");
        line.calm();
    }
    // The end of a connection may be noticed late.
    eventually("a good line again", async || send().await.status.is_success().then_some(())).await;
    let lost = Capsule::seal(&keys, &Call::get("/as/keys").wire()).call("/relay/c.example");
    home.pay(&lost).await.assert_problem("nobody", ProblemType::HomeserverUnknown);

    operate(remote, "operator.rotate_gateway_keys(revoke => true)").await;
    eventually("the key is gone", async || send().await.is_problem("gateway-key-unknown").then_some(()))
        .await;
    // A look that is more than a minute old is one too many.
    home.admin
        .execute("UPDATE federation.looks SET looked = looked - interval '2 minutes'", &[])
        .await
        .unwrap();
    let shown: HomeserverShown =
        home.pay(&Call::get(format!("/homeservers/{}?fresh=true", remote.domain()))).await.decode();
    let fresh = Description::from_json(shown.description.as_bytes()).unwrap().gateway_keys;
    assert_ne!(fresh.as_bytes(), keys);
    let capsule = Capsule::seal(fresh.as_bytes(), &Call::get("/as/keys").at(remote.domain()).wire());
    let reply = home.pay(&capsule.call(relay(remote))).await;
    capsule.open(&reply).assert_ok("sealed for the new key");
    for world in &neighbours.worlds {
        assert!(!world.server().log().contains("ERROR"), "{}", world.server().log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_another_domain_come_through_the_own_homeserver_from_four_fifths_of_its_allowance_there() {
    let neighbours = Neighbours::builder().tokens(50).start().await;
    let [home, remote] = [&neighbours[0], &neighbours[1]];
    let operator = remote.cluster.connect_as("postern_operator").await;
    let allow = async |tokens: i32| {
        operator
            .execute("SELECT operator.set_allowance($1, domain => 'a.example')", &[&tokens])
            .await
            .unwrap();
    };
    allow(12).await;
    let limit = "SELECT operator.set_federation_limit('relayed_tokens', 10)";
    home.admin.execute(limit, &[]).await.expect("the operator may");
    let issuer = remote.description().await.issuer;
    let key = issuer.token_keys.iter().find(|key| key.token_type == TokenType::PrivateRistretto255 as u16);
    let key = bytes_of(key.expect("there is one"));
    let ask = async |number: u16| {
        let ask = Ask::batch_for(&key, number, &challenge(remote.domain()));
        let target = format!("{}/token-request", relay(remote));
        let reply = home.pay(&Call::post(target).with_bytes(ask.media_type, ask.body.clone())).await;
        (ask, reply)
    };
    let (asked, reply) = ask(10).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(reply.headers[CONTENT_TYPE], asked.media_type.replace("request", "response"));
    assert!(
        !reply.headers.contains_key("ratelimit"),
        "what the domain has there is not the client's to know"
    );
    let tokens = asked.open(&reply.body);
    let call = Call::post("/ds/group-ids").at(remote.domain()).paid_with(tokens[0].clone());
    assert_eq!(through(home, remote, &call).await.status, StatusCode::CREATED);
    assert_eq!(through(home, remote, &call).await.slug(), "token-spent");

    ask(100).await.1.assert_problem("more than one token buys", ProblemType::InvalidTokenRequest);
    let problem = ask(10).await.1.assert_problem("used up", ProblemType::AllowanceUsedUp);
    assert_eq!(problem.detail.as_deref(), Some("the other homeserver says so"));
    allow(32).await;
    ask(10).await.1.assert_ok("there are 12 left");
    ask(10).await.1.assert_ok("there are 2 left");
    let problem = ask(1).await.1.assert_problem("the rest is the server's own", ProblemType::AllowanceUsedUp);
    assert!(problem.detail.is_some_and(|detail| detail.contains("for the messages to it")));
    let taker: String = remote.value("SELECT domain::text FROM aas.takers WHERE domain IS NOT NULL").await;
    assert_eq!(taker, "a.example");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_person_asks_wrongly_takes_tokens_from_nobody_else() {
    let neighbours = Neighbours::builder().tokens(300).start().await;
    let [home, remote] = [&neighbours[0], &neighbours[1]];
    let issuer = remote.description().await.issuer;
    let key = issuer.token_keys.iter().find(|key| key.token_type == TokenType::PrivateRistretto255 as u16);
    let key = bytes_of(key.expect("there is one"));
    let is_known = |id: &u8| {
        let mut known = issuer.token_keys.iter().map(|key| token_key_id(&bytes_of(key)));
        known.any(|known| known.last() == Some(id))
    };
    let unknown = (0..=u8::MAX).find(|id| !is_known(id)).expect("few are known");
    let ask = async |spoil: &dyn Fn(&mut Vec<u8>)| {
        let ask = Ask::batch_for(&key, 1, &challenge(remote.domain()));
        let mut body = ask.body.clone();
        spoil(&mut body);
        home.pay(&Call::post(format!("{}/token-request", relay(remote))).with_bytes(ask.media_type, body))
            .await
    };
    for _ in 0..110 {
        ask(&|body| body[2] = unknown).await.assert_problem("an unknown key", ProblemType::UnknownTokenKey);
    }
    let no_element = ask(&|body| body.iter_mut().rev().take(32).for_each(|byte| *byte = 0xff)).await;
    no_element.assert_problem("no element", ProblemType::InvalidTokenRequest);
    assert_eq!(remote.count("aas.takers WHERE domain IS NOT NULL").await, 0, "it went no further");
    ask(&|_| ()).await.assert_ok("a good one");

    // A homeserver that vouches for everything pays for that, and its people's tokens do not end.
    let careless = SigningKey::generate();
    let sql = "SELECT operator.trust_homeserver_key('third.example', $1)";
    let public = careless.public_key();
    remote.admin.execute(sql, &[&public.as_bytes().as_slice()]).await.unwrap();
    let mut dead = Ask::batch_for(&key, 1, &challenge(remote.domain()));
    dead.body[2] = unknown;
    let reply = remote.ask(0, &careless, dead.media_type, &dead.body).await;
    reply.assert_problem("a key that does not issue", ProblemType::UnknownTokenKey);
    assert_eq!(remote.count("aas.takers WHERE domain = 'third.example'").await, 0, "it takes nothing");
    for _ in 0..110 {
        let mut wrong = Ask::batch_for(&key, 1, &challenge(remote.domain()));
        wrong.body.iter_mut().rev().take(32).for_each(|byte| *byte = 0xff);
        let reply = remote.ask(0, &careless, wrong.media_type, &wrong.body).await;
        reply.assert_problem("no element", ProblemType::InvalidTokenRequest);
    }
    let good = Ask::batch_for(&key, 1, &challenge(remote.domain()));
    remote.ask(0, &careless, good.media_type, &good.body).await.assert_ok("a good one");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_came_through_a_homeserver_buy_no_more_of_another_ones() {
    let neighbours = Neighbours::builder().domains(3).tokens(50).start().await;
    let [home, middle, far] = [&neighbours[0], &neighbours[1], &neighbours[2]];
    let key_of = async |world: &World| {
        let issuer = world.description().await.issuer;
        let key =
            issuer.token_keys.iter().find(|key| key.token_type == TokenType::PrivateRistretto255 as u16);
        bytes_of(key.expect("there is one"))
    };
    let ask = Ask::batch_for(&key_of(middle).await, 1, &challenge(middle.domain()));
    let target = format!("{}/token-request", relay(middle));
    let reply = home.pay(&Call::post(target).with_bytes(ask.media_type, ask.body.clone())).await;
    let [token] = &ask.open(&reply.body)[..] else { panic!("one token buys one") };
    // Not through the gateway, and elsewhere one for one: no chain makes many of few.
    let ask = Ask::batch_for(&key_of(far).await, 10, &challenge(far.domain()));
    let target = format!("{}/token-request", relay(far));
    let call = Call::post(target).with_bytes(ask.media_type, ask.body.clone());
    let call = call.at(middle.domain()).paid_with(token.clone());
    through(home, middle, &call).await.assert_problem("through the gateway", ProblemType::NotFound);
    middle.send(&call.wire()).await.assert_problem("ten for one", ProblemType::InvalidTokenRequest);
    // A token does not tell whose it is: it buys what one of its own people's does.
    let ask = Ask::batch_for(&key_of(middle).await, 1, &challenge(middle.domain()));
    let target = format!("{}/token-request", relay(middle));
    let reply = home.pay(&Call::post(target).with_bytes(ask.media_type, ask.body.clone())).await;
    let [token] = &ask.open(&reply.body)[..] else { panic!("one token buys one") };
    let ask = Ask::batch_for(&key_of(far).await, 1, &challenge(far.domain()));
    let target = format!("{}/token-request", relay(far));
    let call = Call::post(target).with_bytes(ask.media_type, ask.body.clone());
    let reply = middle.send(&call.at(middle.domain()).paid_with(token.clone()).wire()).await;
    reply.assert_ok("one for one");
    assert_eq!(ask.open(&reply.body).len(), 1);
    let takers = "SELECT array_agg(domain::text) FROM aas.takers WHERE domain IS NOT NULL";
    assert_eq!(far.value::<Vec<String>>(takers).await, ["b.example"], "in the name of the one between");
    neighbours.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_the_tokens_that_were_asked_for_comes_through_as_a_part() {
    let neighbours = Neighbours::builder().tokens(20).start().await;
    let [home, remote] = [&neighbours[0], &neighbours[1]];
    let limit = "SELECT operator.set_federation_limit('relayed_tokens', 10)";
    home.admin.execute(limit, &[]).await.expect("the operator may");
    let p384 = remote.issuer_key(TokenType::PrivateP384).await;
    let rsa = remote.issuer_key(TokenType::Public).await;
    let ask = Ask::generic(&p384, &rsa);
    let mut body = ask.body.clone();
    // The last message is no number below the key's modulus, which the issuer alone looks at.
    body.iter_mut().rev().take(256).for_each(|byte| *byte = 0xff);
    let call = Call::post(format!("{}/token-request", relay(remote))).with_bytes(ask.media_type, body);
    let reply = home.pay(&call).await;
    assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{}", reply.text());
    assert_eq!(reply.headers[CONTENT_TYPE], ask.media_type.replace("request", "response"));
    let taken = "SELECT sum(tokens) FROM aas.issued JOIN aas.takers USING (taker) WHERE domain IS NOT NULL";
    assert_eq!(
        remote.value::<i64>(taken).await,
        10,
        "what is asked for is counted before anything is computed"
    );
    let whole = Ask::generic(&p384, &rsa);
    let call = Call::post(format!("{}/token-request", relay(remote)));
    let reply = home.pay(&call.with_bytes(whole.media_type, whole.body.clone())).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(whole.open(&reply.body).len(), 10);
    neighbours.close();
}

/// A homeserver that is found by its description, and then is as bad as the test likes.
async fn bad_neighbour(settings: &[(&str, &str)]) -> (World, FalseHomeserver, Authority) {
    let authority = Authority::new();
    let files = authority.certify(&["bad.example", "silent.example"]);
    let bad = FalseHomeserver::start(&files, Vec::new()).await;
    let hosts = format!("bad.example={0},silent.example={0}", bad.address());
    let mut world = World::builder()
        .setting("POSTERN_FEDERATION_HOSTS", &hosts)
        .setting("POSTERN_FEDERATION_TRUSTED_ROOTS", &authority.file().display().to_string())
        .tokens(100);
    for (name, value) in settings {
        world = world.setting(name, value);
    }
    let world = world.start().await;
    // They have the places of neighbours.
    let allow = "SELECT operator.allow_domain('bad.example'), operator.allow_domain('silent.example')";
    world.admin.execute(allow, &[]).await.expect("the operator may");
    bad.answer(described(&world, "bad.example").await);
    world.pay(&Call::get("/homeservers/bad.example")).await.assert_ok("it is found");
    (world, bad, authority)
}

/// An answer with a description of a domain's homeserver, with what is in that of a world's.
async fn described(world: &World, domain: &str) -> Vec<u8> {
    let mut description = world.description().await;
    description.domain = domain.parse::<Domain>().unwrap();
    description.base_url = format!("https://{domain}");
    let key = SigningKey::generate();
    description.keys = vec![postern_protocol::federation::ServerKey {
        public_key: key.public_key(),
        not_before: now() - 100,
        not_after: now() + 1000,
        endorsement: None,
    }];
    description.signatures.clear();
    description.sign(&key);
    FalseHomeserver::json(&serde_json::to_vec(&description).unwrap())
}

/// Anybody can name as many homeservers as they like.
#[tokio::test(flavor = "multi_thread")]
async fn requests_at_any_number_of_made_up_names_keep_none_at_a_neighbour_out() {
    /// Time within which the neighbour is seen: a look that waits for those at made-up names waits for ten seconds, which
    /// each of them has, or is refused before.
    const SOON: Duration = Duration::from_secs(8);
    let authority = Authority::new();
    let names: Vec<String> = (0..120).map(|number| format!("made-up{number}.example")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let silent = FalseHomeserver::start(&authority.certify(&all), Vec::new()).await;
    let good = FalseHomeserver::start(&authority.certify(&["good.example"]), Vec::new()).await;
    let made_up = names.iter().map(|name| format!("{name}={}", silent.address()));
    let hosts = made_up.chain([format!("good.example={}", good.address())]).collect::<Vec<_>>().join(",");
    let world = World::builder()
        .setting("POSTERN_FEDERATION_HOSTS", &hosts)
        .setting("POSTERN_FEDERATION_TRUSTED_ROOTS", &authority.file().display().to_string())
        .setting("POSTERN_FEDERATION_AT_ONCE", "16")
        .setting("POSTERN_FEDERATION_AT_ONCE_PER_DOMAIN", "4")
        .tokens(200)
        .start()
        .await;
    world.admin.execute("SELECT operator.allow_domain('good.example')", &[]).await.unwrap();
    good.answer(described(&world, "good.example").await);
    let keys = world.gateway_keys().await;
    let ask = async |name: &str| {
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        world.pay(&capsule.call(format!("/relay/{name}"))).await
    };
    let flood = join_all(names.iter().map(|name| ask(name)));
    let look = async {
        eventually("they come", async || (silent.asked() > 0).then_some(())).await;
        let begun = Instant::now();
        world.pay(&Call::get("/homeservers/good.example")).await.assert_ok("a neighbour");
        begun.elapsed()
    };
    tokio::select! {
        took = look => assert!(took < SOON, "it took {took:?}"),
        _ = flood => panic!("they end no sooner than looks at them do"),
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_the_gateways_is_told_so_and_a_huge_one_is_cut_off() {
    let settings =
        [("POSTERN_FEDERATION_RELAYED_ANSWER_BYTES", "100000"), ("POSTERN_FEDERATION_RELAY_SECONDS", "10")];
    let (world, bad, _authority) = bad_neighbour(&settings).await;
    let keys = world.gateway_keys().await;
    let answer = |status: &str, media_type: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let problem = postern_protocol::problem::Problem::new(ProblemType::TokenSpent).to_json();
    let huge = vec![7; 300_000];
    for (what, answer, expected, detail) in [
        ("a page", answer("200 OK", "text/html", b"<p>"), ProblemType::HomeserverRefused, "not sealed"),
        ("a redirect", answer("302 Found", "text/html", b""), ProblemType::HomeserverRefused, "status 302"),
        (
            "an error",
            answer("500 Oh", "text/html", b"x"),
            ProblemType::Unavailable,
            "the other homeserver cannot do it",
        ),
        (
            "a problem",
            answer("401 No", "application/problem+json", &problem),
            ProblemType::HomeserverRefused,
            "token-spent",
        ),
        (
            "too much",
            answer("200 OK", "message/ohttp-res", &huge),
            ProblemType::HomeserverRefused,
            "109216 bytes",
        ),
        ("no HTTP", b"garbage".to_vec(), ProblemType::HomeserverUnreachable, ""),
        ("nothing", Vec::new(), ProblemType::HomeserverUnreachable, ""),
    ] {
        bad.answer(answer);
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        let reply = world.pay(&capsule.call("/relay/bad.example")).await;
        let found = reply.assert_problem(what, expected).detail.unwrap_or_default();
        assert!(found.contains(detail), "{what}: {found}");
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_does_not_answer_holds_few_places_and_those_of_no_other_domain() {
    let settings = [
        ("POSTERN_FEDERATION_AT_ONCE_PER_DOMAIN", "2"),
        ("POSTERN_FEDERATION_WAITING_PER_DOMAIN", "3"),
        // The ones that wait do so for longer than it takes until all others have come and are refused.
        ("POSTERN_FEDERATION_RELAY_SECONDS", "20"),
    ];
    let (world, bad, _authority) = bad_neighbour(&settings).await;
    bad.answer(Vec::new());
    let keys = world.gateway_keys().await;
    let begun = Instant::now();
    let send = async || {
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        let reply = world.pay(&capsule.call("/relay/bad.example")).await;
        (reply.slug(), begun.elapsed())
    };
    let answers = join_all((0..10).map(|_| send())).await;
    let number = |slug: &str| answers.iter().filter(|(found, _)| *found == slug).count();
    // Two at once, and two more when those wait; of these one waits as the third.
    assert_eq!(number("homeserver-unreachable"), 3, "{answers:?}");
    assert_eq!(number("unavailable"), 7, "{answers:?}");
    let [refused, waited] = ["unavailable", "homeserver-unreachable"]
        .map(|slug| answers.iter().filter(move |(found, _)| *found == slug).map(|(_, after)| *after));
    assert!(refused.max() < waited.min(), "nobody is refused only then: {answers:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_a_homeserver_that_does_not_answer_holds_no_place_of_another_domain() {
    let settings = [
        ("POSTERN_FEDERATION_AT_ONCE", "1"),
        ("POSTERN_FEDERATION_AT_ONCE_PER_DOMAIN", "1"),
        // Long before the look ends by itself.
        ("POSTERN_FEDERATION_RELAY_SECONDS", "5"),
    ];
    let (world, bad, _authority) = bad_neighbour(&settings).await;
    bad.answer(Vec::new());
    let (keys, asked) = (world.gateway_keys().await, bad.asked());
    let send = async |target: &str| {
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        world.pay(&capsule.call(target)).await
    };
    let (silent, answered) = join!(send("/relay/silent.example"), async {
        eventually("it is asked", async || (bad.asked() > asked).then_some(())).await;
        bad.answer(FalseHomeserver::json(b"{}"));
        send("/relay/bad.example").await
    });
    answered.assert_problem("who answers", ProblemType::HomeserverRefused);
    silent.assert_problem("who does not", ProblemType::HomeserverUnreachable);
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_waits_for_other_homeservers_together_has_so_many_places() {
    let settings = [
        ("POSTERN_FEDERATION_AT_ONCE", "2"),
        ("POSTERN_FEDERATION_AT_ONCE_PER_DOMAIN", "2"),
        ("POSTERN_FEDERATION_WAITING", "3"),
        ("POSTERN_FEDERATION_WAITING_PER_DOMAIN", "2"),
        // Long after the fourth is refused, and long before a look ends by itself, whichever of them came first.
        ("POSTERN_FEDERATION_RELAY_SECONDS", "6"),
    ];
    let (world, bad, _authority) = bad_neighbour(&settings).await;
    bad.answer(Vec::new());
    let keys = world.gateway_keys().await;
    let send = async |domain: &str| {
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        world.pay(&capsule.call(format!("/relay/{domain}.example"))).await.slug()
    };
    // Two are under way, and wait after half a second; of the next two, one finds no place to wait, whichever it is.
    let answers = join!(send("bad"), send("bad"), send("silent"), send("silent"));
    let answers = [answers.0, answers.1, answers.2, answers.3];
    let number = |slug: &str| answers.iter().filter(|found| **found == slug).count();
    assert_eq!((number("unavailable"), number("homeserver-unreachable")), (1, 3), "{answers:?}");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_for_somebody_has_a_place_as_what_is_handed_on_has() {
    let settings = [
        ("POSTERN_FEDERATION_AT_ONCE", "1"),
        ("POSTERN_FEDERATION_AT_ONCE_PER_DOMAIN", "1"),
        ("POSTERN_FEDERATION_WAITING", "1"),
        ("POSTERN_FEDERATION_WAITING_PER_DOMAIN", "1"),
        // Long after the second is refused, and before a look ends by itself.
        ("POSTERN_FEDERATION_RELAY_SECONDS", "8"),
    ];
    let (world, bad, _authority) = bad_neighbour(&settings).await;
    bad.answer(Vec::new());
    let (keys, asked) = (world.gateway_keys().await, bad.asked());
    let look = Call::get("/homeservers/silent.example");
    let (look, handed_on) = join!(world.pay(&look), async {
        eventually("it is asked", async || (bad.asked() > asked).then_some(())).await;
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        world.pay(&capsule.call("/relay/bad.example")).await
    });
    look.assert_problem("the look", ProblemType::HomeserverUnreachable);
    handed_on.assert_problem("there is one place to wait, and the look has it", ProblemType::Unavailable);
    world.close();
}

/// Bytes of a body. [`FIVE_BODIES`] have room for five of them.
const BODY_BYTES: usize = 500 * 1024;
const FIVE_BODIES: [(&str, &str); 3] = [
    ("POSTERN_BODIES_BYTES", "2621440"),
    ("POSTERN_PROXY_ADDRESSES", "127.0.0.1"),
    ("POSTERN_PROXY_SOURCE", "x-forwarded-for"),
];
/// The clients that send five. None has more than its share.
const CLIENTS: [&str; 5] = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1"];

/// Sends a request as the proxy does through which it comes from a client.
async fn send_from(world: &World, client: &str, call: &Call) -> Reply {
    let mut wire = call.wire();
    wire.set("x-forwarded-for", client);
    world.send(&wire).await
}

/// A request that needs memory for its body, and no database.
fn another_body() -> Call {
    Call::post("/aas/token-request").with_bytes("text/plain", vec![7; BODY_BYTES / 10])
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_wait_for_the_answer_of_another_homeserver_give_way_to_those_of_others() {
    let (world, bad, _authority) = bad_neighbour(&FIVE_BODIES).await;
    bad.answer(Vec::new());
    let asked = bad.asked();
    let calls = CLIENTS.map(|client| {
        let sealed = Call::post("/relay/bad.example").with_bytes("message/ohttp-req", vec![7; BODY_BYTES]);
        (client, world.paid(sealed))
    });
    let waiting = join_all(calls.iter().map(|(client, call)| send_from(&world, client, call)));
    let other = async {
        eventually("all wait", async || (bad.asked() >= asked + CLIENTS.len()).then_some(())).await;
        send_from(&world, "192.0.2.3", &another_body()).await
    };
    tokio::select! {
        reply = other => assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{}", reply.text()),
        _ = waiting => panic!("nobody answers them"),
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_wait_for_a_place_at_the_gateway_give_way_to_those_of_others() {
    let mut world = World::builder().patient();
    // All of them wait in sessions for statements that meet a lock: a quarter of this.
    for (name, value) in FIVE_BODIES.into_iter().chain([("POSTERN_DATABASE_POOL_SIZE", "32")]) {
        world = world.setting(name, value);
    }
    let world = world.start().await;
    let key = SigningKey::generate();
    let trust = "SELECT operator.trust_homeserver_key('elsewhere.example', $1)";
    world.admin.execute(trust, &[&key.public_key().as_bytes().as_slice()]).await.unwrap();
    // Before a request has a place, the server asks whether its domain is a neighbour.
    let blocker = world.cluster.admin().await;
    let lock = "BEGIN; LOCK TABLE federation.neighbours IN ACCESS EXCLUSIVE MODE";
    blocker.batch_execute(lock).await.unwrap();
    let calls = CLIENTS.map(|client| {
        let sealed = Call::post("/gateway").with_bytes("message/ohttp-req", vec![7; BODY_BYTES]);
        (client, sealed.signed_by(&key))
    });
    let waiting = join_all(calls.iter().map(|(client, call)| send_from(&world, client, call)));
    let other = async {
        let admitted = async || (world.count("aas.used_signatures").await == 5).then_some(());
        eventually("all have come", admitted).await;
        eventually("there is room for another one", async || {
            let reply = send_from(&world, "192.0.2.3", &another_body()).await;
            (reply.status == StatusCode::UNSUPPORTED_MEDIA_TYPE).then_some(())
        })
        .await;
        blocker.batch_execute("ROLLBACK").await.unwrap();
    };
    let (replies, ()) = join!(waiting, other);
    let gave_way = replies.iter().filter(|reply| reply.is_problem("unavailable")).count();
    assert!((1..5).contains(&gave_way), "{gave_way} of five gave way");
    world.close();
}
