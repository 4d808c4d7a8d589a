//! The door (AAS-8): nothing is computed for a token that is spent, and whoever hangs up pays.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use postern_protocol::{
    auth::SignCredential,
    mls::{GroupPolicy, Pseudonym},
    problem::ProblemType,
    qs::QueueKind,
    token::TokenType,
};
use postern_tests_kit::{
    Ask, Call, Commit, Party, Wire, World, creation, depositing, eventually, policy_extensions,
};
use reqwest::StatusCode;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};

/// The statements about tokens and reservations that the server has made since the last call, and no chores.
fn statements(world: &World) -> Vec<String> {
    let mut statements = world.relay().take_statements();
    statements.retain(|text| ["ds.", "is_token_spent", "settle"].iter().any(|part| text.contains(part)));
    statements.retain(|text| !["ds.clean_up", "sender_key"].iter().any(|part| text.contains(part)));
    statements
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_database_called_spent_ends_at_the_door() {
    let world = World::builder().relay().start().await;
    let client = world.client("alice").await;
    let key = world.issuer_key(TokenType::PrivateRistretto255).await;
    let token = world.tokens(0, &client, &Ask::batch(&key, 1)).await.remove(0);
    assert_eq!(world.spend(0, &token).await.status, StatusCode::CREATED);
    statements(&world);
    // It was seen: the database is asked about it before anything is done.
    assert_eq!(world.spend(0, &token).await.slug(), "token-spent");
    let asked = statements(&world);
    assert!(!asked.is_empty() && asked.iter().all(|text| text.contains("is_token_spent")), "{asked:?}");
    for _ in 0..3 {
        let reply = world.spend(0, &token).await;
        assert_eq!(reply.slug(), "token-spent");
        assert!(!reply.header("www-authenticate").is_empty(), "it says where to get another one");
    }
    assert_eq!(statements(&world), Vec::<String>::new());
    world.close();
}

/// The other process has not seen the token, nor would this one if it were started again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_computed_for_a_token_that_another_process_spent() {
    let world = World::builder().relay().servers(2).tokens(100).start().await;
    let mut group = world.group(2).await;
    let mut founder = Party::newcomer();
    let id = world.reserve().await;
    let pseudonym = Pseudonym(founder.identity.as_slice().try_into().expect("it is one"));
    let policy = GroupPolicy::new(pseudonym);
    founder.found(&id.to_mls(), policy_extensions(world.domain(), &policy, &world.server_key()));
    let joiner = world.candidate().await.party;
    let add = vec![joiner.key_package()];
    let (_, addition) = group.make(0, Commit { add, ..Commit::default() });
    world.pay(&addition).await.assert_ok("an addition");
    group.party(0).merge();
    let member = &group.members[0].party.key;
    let calls = [
        ("the group's start", creation(&id, policy.state_key(), &founder)),
        ("its GroupInfo", group.ask_for_info(member)),
        ("a joiner's tree", group.ask_for_tree(2, &joiner.key)),
        ("its end", group.deletion(0)),
        ("a commit", group.make(0, Commit { update: true, ..Commit::default() }).1),
    ];
    for (what, call) in calls {
        let token = world.token();
        assert_eq!(world.spend(0, &token).await.status, StatusCode::CREATED);
        statements(&world);
        let reply = world.send_to(&world.servers[1], &call.paid_with(token).wire()).await;
        reply.assert_problem(what, ProblemType::TokenSpent);
        // The group, which would be computed with, is not even read, and the token is not brought to the database again.
        let asked = statements(&world);
        assert_eq!(asked.len(), 1, "{what}: {asked:?}");
        let looks = ["is_token_spent", "ds.load_group", "ds.load_welcome_tree"];
        assert!(looks.iter().any(|look| asked[0].contains(look)), "{what}: {asked:?}");
    }
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_a_free_endpoint_left_unspent_goes_on_being_good() {
    let world = World::builder().tokens(1).start().await;
    let token = world.token();
    let price = async |price: i32| {
        let sql = "SELECT operator.set_price('ds.reserve_group_id', $1)";
        world.admin.execute(sql, &[&price]).await.expect("it is in the list");
    };
    price(0).await;
    for _ in 0..3 {
        assert_eq!(world.spend(0, &token).await.status, StatusCode::CREATED);
    }
    price(1).await;
    assert_eq!(world.spend(0, &token).await.status, StatusCode::CREATED);
    for _ in 0..3 {
        assert_eq!(world.spend(0, &token).await.slug(), "token-spent");
    }
    world.close();
}

/// Sends a request, and leaves its answer.
async fn send(world: &World, wire: &Wire) -> TcpStream {
    send_from(world, wire, Ipv4Addr::LOCALHOST).await
}

/// The same from an address of this machine.
async fn send_from(world: &World, wire: &Wire, address: Ipv4Addr) -> TcpStream {
    let mut head = format!("{} {} HTTP/1.1\r\nhost: postern\r\n", wire.method, wire.target);
    for (name, value) in &wire.headers {
        head += &format!("{name}: {}\r\n", value.to_str().expect("it is text"));
    }
    head += &format!("content-length: {}\r\n\r\n", wire.body.len());
    let socket = TcpSocket::new_v4().expect("there is one");
    socket.bind((address, 0).into()).expect("the address is this machine's");
    let mut connection = socket.connect(world.server().address()).await.expect("it listens");
    connection.write_all(&[head.as_bytes(), &wire.body].concat()).await.expect("it reads");
    connection
}

/// Ends a connection. Returns once the server has seen it, and closed its end.
async fn hang_up(world: &World, connection: TcpStream) {
    let port = |address: SocketAddr| format!(":{:04X}", address.port());
    let ours = port(connection.local_addr().expect("it is connected"));
    let servers = port(world.server().address());
    drop(connection);
    eventually("the server closes its end", async || {
        let sockets = fs::read_to_string("/proc/net/tcp").expect("there is /proc");
        // Each line: number, local address, remote address, state. Open are 01 (established) and 08 (the other end is
        // closed).
        let is_open = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let mut next = || fields.next().unwrap_or_default();
            let (local, remote, state) = (next(), next(), next());
            local.ends_with(&servers) && remote.ends_with(&ours) && ["01", "08"].contains(&state)
        };
        (!sockets.lines().any(is_open)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_while_its_request_is_under_way_pays() {
    let world = World::builder().relay().tokens(1).patient().start().await;
    let user = world.user("alice").await;
    let call = Call::post("/as/credentials").with(&SignCredential {}).signed_by(&user.device.key);
    let wire = world.paid(call).wire();

    // The server reads what it validates against, and its client goes before it knows.
    world.relay().pause_at("auth.load_client");
    let connection = send(&world, &wire).await;
    world.relay().paused().await;
    hang_up(&world, connection).await;
    world.relay().resume();
    let nonce = wire.nonce.expect("it was paid");
    eventually("the token is spent", async || world.is_spent(&nonce).await.then_some(())).await;
    world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_wait_for_their_tokens_turn_give_way_to_those_of_others() {
    // Four of these bodies leave no memory for another one.
    const BYTES: usize = 510 * 1024;
    const GAVE_WAY: &str = "the body gave way to those of others";
    let world = World::builder()
        .relay()
        .patient()
        .setting("POSTERN_BODIES_BYTES", &(4 * 512 * 1024).to_string())
        .setting("POSTERN_LOG_FILTER", "info,postern_server::http=debug")
        .tokens(300)
        .start()
        .await;
    let large = Call::post("/ds/groups/x/messages").with_bytes("application/cbor", vec![7; BYTES]);
    // It needs memory for its body, and no database.
    let other = Call::post("/aas/token-request").with_bytes("text/plain", vec![7; BYTES / 10]);
    // After a long pause of this machine not all have come when the other one does, and nobody gives way: then once more.
    let five_and_another = async || {
        let wire = world.paid(large.clone()).wire();
        // The first one is about to be paid: its body is gone. The four others wait for what becomes of their token.
        world.relay().pause_at("aas.settle_token");
        let mut waiting = Vec::new();
        for place in 0..5 {
            let neighbour = Ipv4Addr::new(127, 0, 0, 2 + place % 2);
            waiting.push(send_from(&world, &wire, neighbour).await);
            if place == 0 {
                world.relay().paused().await;
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let reply = world.send(&other.wire()).await;
        world.relay().resume();
        drop(waiting);
        let came_through = reply.status == StatusCode::UNSUPPORTED_MEDIA_TYPE;
        (came_through && world.server().log().contains(GAVE_WAY)).then_some(())
    };
    eventually("one gives way that waits for its token's turn", five_and_another).await;
    world.close();
}

/// Its token is spent, and nobody reads what comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_ends_with_its_connection() {
    let world = World::builder().relay().tokens(100).start().await;
    let mailbox = world.mailbox(QueueKind::Contact).await;
    let address = world.address(&mailbox).await;
    let looks = || {
        let statements = world.relay().take_statements();
        statements.iter().filter(|text| text.contains("qs.next_messages")).count()
    };
    let wire = world.paid(mailbox.waiting(60)).wire();
    let connection = send(&world, &wire).await;
    let nonce = wire.nonce.expect("it was paid");
    eventually("it waits", async || world.is_spent(&nonce).await.then_some(())).await;
    hang_up(&world, connection).await;
    looks();
    world.pay(&depositing(address, b"for nobody")).await.assert_ok("a deposit");
    // Long enough for it to be woken, if it were there. Another long-poll would be, too.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(looks(), 0);
    world.close();
}
