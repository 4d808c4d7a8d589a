//! Limits of registration (AS-1): a stranger gets a few attempts in an hour, all strangers together some more, and no
//! name that people take for the operator's.

use futures_util::future::join_all;
use postern_tests_kit::{Call, Reply, Server, User, World, dump, eventually, random_id};
use reqwest::StatusCode;

/// Attempts of one address in an hour, by default.
const PER_SOURCE: usize = 20;

fn registered(replies: &[Reply]) -> usize {
    replies.iter().filter(|reply| reply.status == StatusCode::CREATED).count()
}

/// Registers users at once, at all servers in turn.
async fn register(world: &World, prefix: &str, number: usize) -> Vec<Reply> {
    let wires: Vec<_> =
        (0..number).map(|index| User::new(&format!("{prefix}-{index}")).registration().wire()).collect();
    let sends = wires.iter().enumerate().map(|(index, wire)| {
        let server = &world.servers[index % world.servers.len()];
        world.send_to(server, wire)
    });
    join_all(sends).await
}

async fn set(world: &World, limit: &str, value: i32) {
    let sql = "SELECT operator.set_user_limit($1, $2)";
    world.admin.execute(sql, &[&limit, &value]).await.expect("the operator may");
}

/// Lets an hour pass for what was counted.
async fn pass_an_hour(world: &World) {
    world.admin.execute("UPDATE operator.attempts SET hour = hour - 1", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_registers_a_few_users_an_hour_however_many_servers_it_asks_at_once() {
    let world = World::builder().servers(2).strict().patient().start().await;
    let replies = register(&world, "user", 200).await;
    assert_eq!(registered(&replies), PER_SOURCE);
    assert_eq!(world.count("auth.users").await, PER_SOURCE as i64);
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status != StatusCode::CREATED).collect();
    for reply in &refused {
        assert_eq!(reply.slug(), "too-many-registrations");
        assert_eq!(reply.header("ratelimit-policy"), r#""hourly";q=20;w=3600"#);
        let seconds: u32 = reply.header("retry-after").parse().unwrap();
        assert!((1..=3600).contains(&seconds));
        assert!(reply.header("ratelimit").starts_with(r#""hourly";r=0;t="#), "{}", reply.header("ratelimit"));
    }
    // All of them together have little to spend.
    let tokens: i32 = world.value("SELECT new_user_allowance FROM aas.settings").await;
    assert!(PER_SOURCE as i32 * tokens <= 40_000);

    // A refusal writes nothing.
    let counted: i64 = world.value("SELECT sum(attempts) FROM operator.attempts").await;
    assert_eq!(counted, 3 * PER_SOURCE as i64, "the address's, its network's, and all together");
    pass_an_hour(&world).await;
    assert_eq!(registered(&register(&world, "later", 30).await), PER_SOURCE);
    world.close();
}

#[tokio::test]
async fn an_attempt_counts_whatever_becomes_of_it() {
    let world = World::builder().strict().start().await;
    world.user("alice").await;
    set(&world, "registrations_per_source", 5).await;
    let valid = User::new("bob").registration();
    let impostor = User::new("alice").registration();
    let reserved = User::new("postmaster").registration();
    let unsigned = Call { signer: None, ..valid.clone() };
    let invalid = valid.without("ratchet_tree");
    for (call, expected) in [
        (&impostor, "name-taken"),
        (&reserved, "name-taken"),
        // No form of a registration: nobody hears anything from it.
        (&invalid, "malformed-body"),
        (&invalid, "malformed-body"),
        (&unsigned, "signature-required"),
        (&impostor, "name-taken"),
        // Names are told no more, and no account is made.
        (&impostor, "too-many-registrations"),
        (&reserved, "too-many-registrations"),
        (&unsigned, "too-many-registrations"),
        (&valid, "too-many-registrations"),
    ] {
        assert_eq!(world.send(&call.wire()).await.slug(), expected);
    }
    pass_an_hour(&world).await;
    world.send(&valid.wire()).await.assert_ok("in the next hour");
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_addresses_together_have_a_limit_and_each_has_its_own() {
    let world = World::builder().servers(2).strict().start().await;
    // Other addresses, as the server counts them: an attempt for each row.
    let others = async |number: i32, address: &str| {
        let sql = format!(
            "SELECT count(*) FILTER (WHERE outcome = 'admitted'),
                    count(*) FILTER (WHERE outcome = 'source_limited'),
                    count(*) FILTER (WHERE outcome = 'server_limited')
               FROM generate_series(1, {number}) n,
                    LATERAL auth.admit_registration(
                        ARRAY[sha256(convert_to({address} || repeat('', n), 'UTF8'))], NULL, NULL)"
        );
        let row = world.admin.query_one(&sql, &[]).await.unwrap();
        [0, 1, 2].map(|column| row.get::<_, i64>(column))
    };
    assert_eq!(others(30, "'one'").await, [20, 10, 0]);
    assert_eq!(others(30, "'another'").await, [20, 10, 0]);
    set(&world, "registrations_per_hour", 100).await;
    assert_eq!(others(100, "n::text").await, [60, 0, 40], "40 were there before");
    let rows = world.count("operator.attempts").await;
    assert_eq!(rows, 63, "an address leaves no trace once all attempts are used up");
    let reply = register(&world, "user", 1).await.remove(0);
    assert_eq!(reply.slug(), "too-many-registrations");
    assert_eq!(reply.header("ratelimit-policy"), r#""hourly";q=100;w=3600"#);

    pass_an_hour(&world).await;
    assert_eq!(registered(&register(&world, "user", 10).await), 10);
    for limit in ["registrations_per_hour", "registrations_per_source"] {
        pass_an_hour(&world).await;
        set(&world, limit, 0).await;
        let reply = register(&world, "closed", 1).await.remove(0);
        assert_eq!(reply.slug(), "too-many-registrations", "{limit}");
        set(&world, limit, 100).await;
    }
    world.close();
}

#[tokio::test]
async fn behind_a_proxy_each_client_has_a_limit_of_its_own_if_the_operator_says_so() {
    let registering = async |world: &World, client: &str| {
        let mut wire = User::new(&format!("user-{}", hex::encode(random_id()))).registration().wire();
        wire.set("x-forwarded-for", client);
        world.send(&wire).await.status == StatusCode::CREATED
    };
    let trusting = World::builder()
        .strict()
        .setting("POSTERN_PROXY_ADDRESSES", "127.0.0.1")
        .setting("POSTERN_PROXY_SOURCE", "x-forwarded-for")
        .start()
        .await;
    set(&trusting, "registrations_per_source", 2).await;
    for (client, expected) in [
        ("192.0.2.1", true),
        ("192.0.2.1", true),
        ("192.0.2.1", false),
        // The client's own word counts for nothing.
        ("198.51.100.7, 192.0.2.1", false),
        ("192.0.2.2", true),
        ("2001:db8:1:2::1", true),
        ("2001:db8:1:2:3::1", true),
        ("2001:db8:1:2:ffff::1", false),
        ("2001:db8:1:3::1", true),
    ] {
        assert_eq!(registering(&trusting, client).await, expected, "{client}");
    }
    trusting.close();

    let world = World::builder().strict().start().await;
    set(&world, "registrations_per_source", 2).await;
    for (client, expected) in [("192.0.2.1", true), ("192.0.2.2", true), ("192.0.2.3", false)] {
        assert_eq!(registering(&world, client).await, expected, "{client} without a proxy");
    }
    world.close();
}

/// A customer with a wide network, and half a city behind another one.
#[tokio::test]
async fn one_network_uses_up_a_part_of_the_hour_and_leaves_the_rest_to_the_others() {
    let world = World::builder()
        .strict()
        .setting("POSTERN_PROXY_ADDRESSES", "127.0.0.1")
        .setting("POSTERN_PROXY_SOURCE", "x-forwarded-for")
        .start()
        .await;
    set(&world, "registrations_per_source", 2).await;
    set(&world, "network_factor", 2).await;
    set(&world, "registrations_per_hour", 20).await;
    // It counts as an attempt, and makes no work.
    let attempt = async |client: String| {
        let mut wire = User::new("postmaster").registration().wire();
        wire.set("x-forwarded-for", &client);
        world.send(&wire).await
    };
    let taken = async |addresses: Vec<String>| {
        let mut taken = 0;
        for address in addresses {
            taken += usize::from(attempt(address).await.slug() == "name-taken");
        }
        taken
    };
    let of_56 = |network: u32| (0..8).map(move |n| format!("2001:db8:1:{:x}::1", network << 8 | n)).collect();
    assert_eq!(taken(of_56(0)).await, 4, "a network of 56 bits");
    assert_eq!(taken(of_56(1)).await, 4, "another one");
    assert_eq!(taken(of_56(2)).await, 0, "a third one of the same network of 48 bits");
    let reply = attempt("2001:db8:1:300::1".to_owned()).await;
    assert_eq!(reply.slug(), "too-many-registrations");
    assert_eq!(reply.header("ratelimit-policy"), r#""hourly";q=8;w=3600"#);

    let of_24 = (0..8).map(|n| format!("192.0.2.{n}")).collect();
    assert_eq!(taken(of_24).await, 2, "what is left of the half that is for those who came before");
    let reply = attempt("192.0.2.100".to_owned()).await;
    assert_eq!(reply.header("ratelimit-policy"), r#""hourly";q=10;w=3600"#);
    let others = (0..15).map(|n| format!("198.51.{n}.1")).collect();
    assert_eq!(taken(others).await, 10, "the other half is for those who did not");
    world.close();
}

#[tokio::test]
async fn no_address_is_kept_and_no_count_longer_than_its_hour() {
    let world = World::builder().strict().start().await;
    world.user("alice").await;
    assert_eq!(world.count("operator.attempts").await, 3);
    let dump = world.cluster.dump().await;
    let digest = "SELECT encode(sha256(convert_to('127.0.0.1', 'UTF8')), 'hex')";
    let digest: String = world.value(digest).await;
    for address in ["127.0.0.1", "127.0.0.0", &hex::encode("127.0.0.1"), &digest] {
        assert!(!dump.contains(address), "{address}");
    }
    // Anywhere in all the random bytes of a dump its four may come by chance.
    let address = [127, 0, 0, 1];
    for row in dump::rows(&dump) {
        let holds = |value: &Vec<u8>| value.starts_with(&address) || value.ends_with(&address);
        assert!(!row.values.iter().any(holds), "{}", row.table);
    }
    world.admin.execute("SELECT auth.clean_up(0)", &[]).await.unwrap();
    assert_eq!(world.count("operator.attempts").await, 3, "the hour is not over");
    pass_an_hour(&world).await;
    let server = Server::start(&world.cluster).await;
    eventually("a server cleans up when it starts", async || {
        (world.count("operator.attempts").await == 0).then_some(())
    })
    .await;
    drop(server);
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_its_owner_gives_up_while_somebody_takes_it_is_nobodys() {
    let world = World::builder().patient().start().await;
    world.user("alice").await;
    world.user("bob").await;
    // Names are given up and kept in one transaction. The registration was admitted before its end, and waits for it.
    let giving_up = world.cluster.admin().await;
    let give_up = "BEGIN;
        INSERT INTO auth.former_names (name, user_id, free)
        SELECT name, user_id, auth.month(now()) + 12 FROM auth.users WHERE name = 'alice';
        UPDATE auth.users SET name = 'alicia' WHERE name = 'alice'";
    giving_up.batch_execute(give_up).await.unwrap();
    let (eve, end) = (User::new("alice").registration().wire(), async {
        eventually("the registration waits", async || {
            let waits = world.count("pg_locks WHERE NOT granted AND locktype = 'transactionid'").await;
            (waits > 0).then_some(())
        })
        .await;
        giving_up.batch_execute("COMMIT").await.unwrap();
    });
    let (reply, ()) = tokio::join!(world.send(&eve), end);
    assert_eq!(reply.slug(), "name-taken");
    assert_eq!(world.count("auth.users WHERE name = 'alice'").await, 0);

    // The database keeps such names however they are taken.
    world.admin.execute("SELECT operator.reserve_name('the-president')", &[]).await.unwrap();
    for name in ["alice", "a1ice", "adm1n", "thepresident"] {
        let sql = format!("UPDATE auth.users SET name = '{name}' WHERE name = 'bob'");
        let error = world.admin.batch_execute(&sql).await.unwrap_err();
        let constraint = error.as_db_error().and_then(|error| error.constraint());
        assert_eq!(constraint, Some("names_are_free"), "{name}");
    }
    let back = "UPDATE auth.users SET name = 'al-ice' WHERE name = 'alicia'";
    world.admin.batch_execute(back).await.expect("its owner takes it back");
}

#[tokio::test]
async fn names_that_people_take_for_the_operators_are_reserved_until_the_operator_releases_them() {
    let world = World::builder().start().await;
    let operator = world.cluster.connect_as("postern_operator").await;
    let answer = async |name: &str| world.send(&User::new(name).registration().wire()).await;
    for name in [
        "admin",
        "postmaster",
        "abuse",
        "root",
        "hostmaster",
        "webmaster",
        "security",
        "support",
        // These look like them.
        "adm1n",
        "a-d.m_i-n",
        "post-master",
        "r00t",
        "5upport",
        "adrnin",
        "vvebmaster",
        "mailerdaemon",
        "adm1n1strat0r",
    ] {
        assert_eq!(answer(name).await.slug(), "name-taken", "{name}");
    }
    for name in ["adam", "administer", "post", "toor", "info-desk-2", "martin"] {
        answer(name).await.assert_ok(name);
    }

    let ask = async |sql: &str| operator.query_one(sql, &[]).await.unwrap().get::<_, bool>(0);
    assert!(ask("SELECT operator.release_name('admin')").await);
    assert!(!ask("SELECT operator.release_name('admin')").await);
    let admin = User::new("admin").registration();
    world.send(&admin.wire()).await.assert_ok("a released name");
    assert!(ask("SELECT operator.reserve_name('admin')").await);
    assert!(!ask("SELECT operator.reserve_name('admin')").await);
    world.send(&admin.wire()).await.assert_ok("a repeat, whose answer was lost while the name was released");
    assert_eq!(answer("adm1n").await.slug(), "name-taken");
    assert!(ask("SELECT operator.reserve_name('the-president')").await);
    assert_eq!(answer("thepresident").await.slug(), "name-taken");
    assert!(
        ask("SELECT count(*) > 40 AND bool_or(name = 'the-president') FROM operator.reserved_names()").await
    );
    // A name is reserved in its one form, in any script.
    assert!(!ask("SELECT operator.reserve_name('ADMIN')").await);
    assert!(ask("SELECT operator.reserve_name('Кассир')").await);
    assert_eq!(answer("кассир").await.slug(), "name-taken");
    assert!(ask("SELECT operator.release_name('КАССИР')").await);
    answer("кассир").await.assert_ok("a released name");
    for bad in ["'a@home.example'", "'аdmin'", "'admi\u{307}n'", "'a😀'", "''", "NULL"] {
        assert!(
            operator.execute(&format!("SELECT operator.reserve_name({bad})"), &[]).await.is_err(),
            "{bad}"
        );
    }
}
