//! A homeserver that moves to another address (FED-1): it is looked at anew when it does not answer where it was.

use postern_protocol::{federation::ServerKey, key::SigningKey, problem::ProblemType};
use postern_tests_kit::{Authority, Call, Capsule, FalseHomeserver, World, eventually, now};
use tokio::net::TcpSocket;

use crate::outbox::put_in;

const DOMAIN: &str = "moves.example";
const NOTHING: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";

/// A world that knows a homeserver by its description, at an address where nobody is any more.
struct Moved {
    world: World,
    key: SigningKey,
    /// The web server at the domain, which has the description.
    signpost: FalseHomeserver,
    /// Hosts to which the homeserver moves one after the other, `first.moves.example` and `second.moves.example`.
    first: FalseHomeserver,
    second: FalseHomeserver,
    /// Keeps the port of the dead address, and does not listen there.
    _dead: TcpSocket,
    _authority: Authority,
}

impl Moved {
    async fn start() -> Self {
        let authority = Authority::new();
        let names = ["first", "second", "dead"].map(|name| format!("{name}.{DOMAIN}"));
        let signpost = FalseHomeserver::start(&authority.certify(&[DOMAIN]), Vec::new()).await;
        let first = FalseHomeserver::start(&authority.certify(&[&names[0]]), NOTHING.to_vec()).await;
        let second = FalseHomeserver::start(&authority.certify(&[&names[1]]), NOTHING.to_vec()).await;
        let dead = TcpSocket::new_v4().expect("there is a socket");
        dead.bind("127.0.0.1:0".parse().expect("it is an address")).expect("a port is free");
        let addresses = [first.address(), second.address(), dead.local_addr().expect("it has an address")];
        let hosts = names.iter().zip(addresses).map(|(name, address)| format!("{name}={address}"));
        let hosts: Vec<String> = hosts.chain([format!("{DOMAIN}={}", signpost.address())]).collect();
        let world = World::builder()
            .setting("POSTERN_FEDERATION_HOSTS", &hosts.join(","))
            .setting("POSTERN_FEDERATION_TRUSTED_ROOTS", &authority.file().display().to_string())
            // One that takes the connection is waited for: 14 seconds, and 2 are for the look.
            .setting("POSTERN_FEDERATION_RELAY_SECONDS", "16")
            .tokens(300)
            .start()
            .await;
        let key = SigningKey::generate();
        let moved = Self { world, key, signpost, first, second, _dead: dead, _authority: authority };
        moved.operate(&format!("allow_domain('{DOMAIN}')")).await;
        moved.is_at("dead").await;
        let look = Call::get(format!("/homeservers/{DOMAIN}"));
        moved.world.pay(&look).await.assert_ok("it is found");
        moved
    }

    /// The description says that the homeserver is at this host.
    async fn is_at(&self, host: &str) {
        let mut description = self.world.description().await;
        description.domain = DOMAIN.parse().expect("it is a domain");
        description.base_url = format!("https://{host}.{DOMAIN}");
        description.keys = vec![ServerKey {
            public_key: self.key.public_key(),
            not_before: now() - 100,
            not_after: now() + 1000,
            endorsement: None,
        }];
        description.signatures.clear();
        description.sign(&self.key);
        let description = serde_json::to_vec(&description).expect("it is JSON");
        self.signpost.answer(FalseHomeserver::json(&description));
    }

    async fn operate(&self, what: &str) {
        let sql = format!("SELECT operator.{what}");
        self.world.admin.execute(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The last look was at this time. The description of that one is good for an hour.
    async fn was_looked_at(&self, time: &str) {
        let sql = format!("UPDATE federation.looks SET looked = {time}");
        assert_eq!(self.world.admin.execute(&sql, &[]).await.unwrap(), 1, "it was looked at");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_on_goes_to_where_a_homeserver_moved() {
    let moved = Moved::start().await;
    let keys = moved.world.gateway_keys().await;
    let relay = async || {
        let capsule = Capsule::seal(&keys, &Call::get("/as/keys").wire());
        moved.world.pay(&capsule.call(format!("/relay/{DOMAIN}"))).await
    };
    relay().await.assert_problem("nobody is there", ProblemType::HomeserverUnreachable);
    let moves_to = async |host: &str| {
        moved.is_at(host).await;
        moved.was_looked_at("now() - interval '2 minutes'").await;
        relay().await.assert_problem("where it was", ProblemType::HomeserverUnreachable);
        let at_home = format!("SELECT base_url = 'https://{host}.{DOMAIN}' FROM federation.homeservers");
        eventually("it is found", async || moved.world.value::<bool>(&at_home).await.then_some(())).await;
        relay().await.assert_problem("it is no gateway", ProblemType::HomeserverRefused);
    };
    moves_to("first").await;
    assert!(moved.first.asked() > 0, "it is asked where it is");
    // The host that it leaves takes requests still, and answers none.
    moved.first.answer(Vec::new());
    let asked = moved.first.asked();
    moves_to("second").await;
    assert!(
        moved.first.asked() > asked && moved.second.asked() > 0,
        "it is asked where it was, and where it is"
    );
    moved.world.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_go_to_where_a_homeserver_moved() {
    let moved = Moved::start().await;
    moved.operate("set_federation_limit('retry_seconds', 1)").await;
    assert_eq!(put_in(&moved.world, "'moves.example'", 1, 100).await, 1);
    let failing = "federation.attempts WHERE state = 'failing'";
    eventually("attempts fail", async || (moved.world.count(failing).await == 1).then_some(())).await;
    moved.is_at("first").await;
    moved.was_looked_at("now() - interval '2 minutes'").await;
    eventually("it is asked where it is", async || (moved.first.asked() > 0).then_some(())).await;

    // The next look is not due for more than an hour, but by the operator's word.
    moved.was_looked_at("now() + interval '1 hour'").await;
    moved.is_at("second").await;
    let asked = moved.first.asked();
    eventually("it is asked where it was", async || (moved.first.asked() > asked).then_some(())).await;
    assert_eq!(moved.second.asked(), 0);
    moved.operate(&format!("retry_now('{DOMAIN}')")).await;
    eventually("it is asked where it is now", async || (moved.second.asked() > 0).then_some(())).await;
    moved.world.close();
}
