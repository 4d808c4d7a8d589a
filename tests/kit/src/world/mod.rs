//! A cluster with servers, somebody to ask them, people with the client library, and a superuser's eye on what all of
//! them change.

mod gate;
mod neighbours;
mod people;
mod snapshot;

use std::{
    collections::HashMap,
    net::SocketAddr,
    process::ExitStatus,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::sys::signal::Signal;
use postern_protocol::{
    Address, PublicKey,
    name::Domain,
    problem::ProblemType,
    qs::{QueueKind, QueuePayload},
    token::TOKEN_TYPE,
};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::{Client as Connection, types::FromSql};

use crate::{
    Authority, Call, Certificate, Cluster, Front, HOME, IdentityProvider, Mailbox, MovedClock, Payer,
    PostgresRelay, Private, Reply, Server, ServerBuilder, Way, Wire, eventually,
};

pub use neighbours::{Neighbours, NeighboursBuilder};
pub use people::{befriend, joined, with};
pub use snapshot::Snapshot;

/// Time for which a connection is kept that has no request: less than servers keep it.
const IDLE: Duration = Duration::from_secs(20);

/// Dropping it stops everything; [`World::close`] also looks at the logs.
pub struct World {
    domain: Domain,
    http: reqwest::Client,
    private: Private,
    payer: OnceCell<Payer>,
    /// The key by which the servers propose removals in groups; `None` before the first server starts.
    server_key: Option<PublicKey>,
    /// A superuser's connection.
    pub admin: Connection,
    // In the order in which they have to go.
    pub servers: Vec<Server>,
    relay: Option<PostgresRelay>,
    pub cluster: Cluster,
    pub homes: TempDir,
    serving: Serving,
    /// The ways in clear to servers that speak TLS, by the servers' addresses.
    fronts: Mutex<HashMap<SocketAddr, Front>>,
}

/// A world to be.
#[must_use]
pub struct WorldBuilder {
    domain: Domain,
    servers: usize,
    pushing: bool,
    relay: bool,
    tokens: usize,
    strict: bool,
    settings: Vec<(String, String)>,
    environment: Vec<(&'static str, String)>,
    /// The addresses of servers, the first one's first; those beyond have a free port of 127.0.0.1.
    addresses: Vec<SocketAddr>,
    tls: Option<Tls>,
    /// The host of the servers' base address, if it is not the domain.
    host: Option<String>,
    private: Private,
}

/// Settings with which each server of a world starts, and starts again.
struct Serving {
    pushing: bool,
    settings: Vec<(String, String)>,
    /// The connection string, if it is not the cluster's own.
    database: Option<String>,
    tls: Option<Tls>,
}

/// TLS as a world's servers speak it.
struct Tls {
    certificate: Certificate,
    /// The authority's own certificate, in PEM.
    authority: String,
}

impl Serving {
    fn builder(&self, cluster: &Cluster) -> ServerBuilder {
        let mut server = Server::builder(cluster);
        if self.pushing {
            server = server.pushing();
        }
        if let Some(url) = &self.database {
            server = server.database(url);
        }
        if let Some(tls) = &self.tls {
            server = server.tls(&tls.certificate);
        }
        self.settings.iter().fold(server, |server, (name, value)| server.env(name, value))
    }
}

/// Lifts the limits that keep strangers and new users small: tests register more users, and take more tokens, within a
/// second than people do in a day.
pub async fn lift_limits(admin: &Connection) {
    let sql = "SELECT operator.set_user_limit('registrations_per_source', 1000000000);
               SELECT operator.set_user_limit('registrations_per_hour', 1000000000);
               SELECT operator.set_user_limit('reset_attempts_per_source', 1000000000);
               SELECT operator.set_user_limit('reset_attempts_per_hour', 1000000000);
               SELECT operator.set_rendezvous_limit('attempts_per_source', 1000000000);
               SELECT operator.set_rendezvous_limit('attempts_per_hour', 1000000000);
               SELECT operator.set_federation_limit('introductions_per_source', 1000000000);
               SELECT operator.set_federation_limit('introductions_per_hour', 1000000000);
               SELECT operator.set_new_homeserver_allowance(2000000000);
               SELECT operator.set_new_user_allowance(2000000000)";
    admin.batch_execute(sql).await.expect("the operator may");
}

impl WorldBuilder {
    /// Makes it the world of this home domain.
    pub fn domain(self, domain: &str) -> Self {
        let domain: Domain = domain.parse().expect("it is a domain");
        Self { domain, ..self }
    }

    /// Lets the servers say that they are at this host and not at the domain.
    fn on_host(self, host: &str) -> Self {
        let said = self.setting("POSTERN_BASE_URL", &format!("https://{host}"));
        Self { host: Some(host.to_owned()), ..said }
    }

    /// Lets the servers speak TLS, with a certificate for their host, which is the domain or was given before, and the
    /// addresses that were.
    pub fn tls(self, authority: &Authority) -> Self {
        let addresses: Vec<String> = self.addresses.iter().map(|address| address.ip().to_string()).collect();
        let host = self.host.as_deref().unwrap_or(self.domain.as_str());
        let names = [host, "127.0.0.1"];
        let names: Vec<&str> = names.into_iter().chain(addresses.iter().map(String::as_str)).collect();
        let tls = Tls { certificate: authority.certify(&names), authority: authority.pem() };
        Self { tls: Some(tls), ..self }
    }

    /// Lets the servers listen here, the first one at the first address.
    pub fn listen(self, addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, ..self }
    }

    /// Collects the texts that no log may have together with other worlds.
    fn with_private(self, private: Private) -> Self {
        Self { private, ..self }
    }

    /// Starts so many servers, one if this is not said.
    pub fn servers(self, servers: usize) -> Self {
        Self { servers, ..self }
    }

    /// Lets the servers send pushes, also to this machine.
    pub fn pushing(self) -> Self {
        Self { pushing: true, ..self }
    }

    /// Lets the servers reach PostgreSQL through [`World::relay`].
    pub fn relay(self) -> Self {
        Self { relay: true, ..self }
    }

    /// Leaves the limits of registrations and of new users' tokens as every operator finds them.
    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// Gives the servers a setting, as an environment variable.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets requests wait for each other, and for locks that a test holds, whatever pauses the machine has meanwhile.
    pub fn patient(self) -> Self {
        self.setting("POSTERN_DATABASE_STATEMENT_TIMEOUT_SECONDS", "60")
            .setting("POSTERN_DATABASE_WAIT_SECONDS", "60")
            .setting("POSTERN_COMPUTE_WAIT_SECONDS", "60")
    }

    /// Lets the servers know the identity provider.
    pub fn logins_at(self, provider: &IdentityProvider) -> Self {
        self.setting("POSTERN_OIDC_ISSUER", provider.issuer())
            .setting("POSTERN_OIDC_CLIENT_ID", IdentityProvider::CLIENT)
    }

    /// Lets PostgreSQL alone go by a clock that the test moves, as on another machine.
    pub fn database_by(self, clock: &MovedClock) -> Self {
        Self { environment: clock.calendar(), ..self }
    }

    /// Lets PostgreSQL and the servers go by a clock that the test moves.
    pub fn by(mut self, clock: &MovedClock) -> Self {
        self = self.database_by(clock);
        for (name, value) in clock.calendar() {
            self = self.setting(name, &value);
        }
        self
    }

    /// Has so many tokens at hand, of a user called `banker`.
    pub fn tokens(self, tokens: usize) -> Self {
        Self { tokens, ..self }
    }

    pub async fn start(self) -> World {
        let cluster = Cluster::start_with(self.environment).await;
        let relay = self.relay.then(|| PostgresRelay::start(&cluster));
        let mut settings = vec![("POSTERN_DOMAIN".to_owned(), self.domain.to_string())];
        settings.extend(self.settings);
        let serving = Serving {
            pushing: self.pushing,
            settings,
            database: relay.as_ref().map(PostgresRelay::server_url),
            tls: self.tls,
        };
        let mut servers = Vec::new();
        for number in 0..self.servers {
            let server = serving.builder(&cluster);
            servers.push(match self.addresses.get(number) {
                Some(address) => server.listen(*address).start().await,
                None => server.start().await,
            });
        }
        let admin = cluster.admin().await;
        if !self.strict {
            lift_limits(&admin).await;
        }
        let key =
            admin.query_opt("SELECT public_key FROM ds.sender_keys", &[]).await.expect("it can be read");
        let server_key = key.map(|row| PublicKey::try_from(row.get::<_, &[u8]>(0)).expect("it is a key"));
        let homes = tempfile::tempdir().expect("/tmp is writable");
        let http = client(serving.tls.as_ref().map(|tls| tls.authority.as_str()));
        let world = World {
            domain: self.domain,
            http,
            private: self.private,
            payer: OnceCell::new(),
            server_key,
            admin,
            servers,
            relay,
            cluster,
            homes,
            serving,
            fronts: Mutex::default(),
        };
        if self.tokens > 0 {
            world.stock(self.tokens).await;
        }
        world
    }
}

/// A client, which trusts this authority and no other if there is one. It gives connections up before servers do: a request
/// that meets the end of its connection has no answer.
fn client(authority: Option<&str>) -> reqwest::Client {
    let mut client = reqwest::Client::builder().pool_idle_timeout(IDLE);
    if let Some(authority) = authority {
        let root = reqwest::Certificate::from_pem(authority.as_bytes()).expect("it is a certificate");
        client = client.tls_certs_only([root]);
    }
    client.build().expect("there is TLS")
}

impl World {
    pub fn builder() -> WorldBuilder {
        WorldBuilder {
            domain: HOME.parse().expect("it is a domain"),
            servers: 1,
            pushing: false,
            relay: false,
            tokens: 0,
            strict: false,
            settings: Vec::new(),
            environment: Vec::new(),
            addresses: Vec::new(),
            tls: None,
            host: None,
            private: Private::default(),
        }
    }

    /// A server that sends pushes, and two hundred tokens at hand.
    pub async fn start() -> Self {
        Self::builder().pushing().tokens(200).start().await
    }

    /// The home domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The first server.
    pub fn server(&self) -> &Server {
        &self.servers[0]
    }

    /// The relay of [`WorldBuilder::relay`].
    pub fn relay(&self) -> &PostgresRelay {
        self.relay.as_ref().expect("the world was built with one")
    }

    pub fn server_key(&self) -> PublicKey {
        self.server_key.expect("a server has started")
    }

    /// A way to a server of this world.
    pub fn way(&self, server: usize) -> Way {
        self.way_to(&self.servers[server])
    }

    /// A way to any server.
    pub fn way_to(&self, server: &Server) -> Way {
        Way::new(&self.http, server.url(), &self.private)
    }

    /// The URL of a server for the client library, which trusts no authority of tests: in clear.
    pub fn url_of(&self, server: &Server) -> String {
        let Some(tls) = &self.serving.tls else { return server.url().to_owned() };
        let (mut fronts, address) = (self.fronts.lock().expect("no panic holds it"), server.address());
        fronts.entry(address).or_insert_with(|| Front::to(address, &tls.authority)).url()
    }

    /// A way to each server of this world.
    pub fn ways(&self) -> Vec<Way> {
        self.servers.iter().map(|server| self.way_to(server)).collect()
    }

    /// Ends a server and starts another in its place; returns how the first one ended.
    pub async fn replace(&mut self, server: usize, signal: Signal) -> ExitStatus {
        let server = &mut self.servers[server];
        let address = server.address();
        server.signal(signal);
        let status = server.ended().await;
        *server = eventually("the server's port is free again", async || {
            self.serving.builder(&self.cluster).listen(address).try_start().await.ok()
        })
        .await;
        status
    }

    /// Keeps the database as it is, with everything stopped meanwhile, for [`World::put_back`].
    pub async fn keep_database(&mut self) {
        let addresses = self.stop().await;
        self.cluster.keep().await;
        self.cluster.restart().await;
        self.start_servers(&addresses).await;
    }

    /// Puts the database back to [`World::keep_database`], and begins another generation, as an operator does after that
    /// (QS-12). Returns once tokens are issued again: the world's own ones are worth nothing any more.
    pub async fn put_back(&mut self) {
        let addresses = self.stop().await;
        self.cluster.put_back().await;
        self.cluster.restart().await;
        let begin = "SELECT operator.begin_generation()";
        self.cluster.admin().await.execute(begin, &[]).await.expect("a superuser may");
        self.start_servers(&addresses).await;
        eventually("there are issuer keys", async || {
            let keys = self.description().await.issuer.token_keys;
            keys.iter().any(|key| key.token_type == TOKEN_TYPE).then_some(())
        })
        .await;
    }

    /// Ends all servers and PostgreSQL; returns where the servers were.
    async fn stop(&mut self) -> Vec<SocketAddr> {
        let addresses = self.servers.iter().map(Server::address).collect();
        for server in self.servers.drain(..) {
            server.kill().await;
        }
        self.cluster.stop().await;
        addresses
    }

    /// Starts servers at these addresses.
    async fn start_servers(&mut self, addresses: &[SocketAddr]) {
        for address in addresses {
            let server = eventually("the server's port is free again", async || {
                self.serving.builder(&self.cluster).listen(*address).try_start().await.ok()
            })
            .await;
            self.servers.push(server);
        }
        self.reconnect().await;
    }

    /// Connects as a superuser again, once PostgreSQL takes sessions.
    pub async fn reconnect(&mut self) {
        self.admin = eventually("the database has recovered", async || self.cluster.try_admin().await).await;
    }

    /// Ends the sessions of servers until there is none, in a test that lets no other one begin.
    pub async fn end_sessions(&self) {
        let end =
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'postern_server'";
        // A session may have begun just before.
        eventually("no server has a session", async || (self.value::<i64>(end).await == 0).then_some(()))
            .await;
    }

    /// The user whose tokens pay for requests here.
    pub async fn payer(&self) -> &Payer {
        self.payer.get_or_init(async || Payer::register(&self.way(0), &self.domain, "banker").await).await
    }

    /// Fetches tokens, so that [`World::token`] has them without a request of its own.
    pub async fn stock(&self, number: usize) {
        self.payer().await.stock(number).await;
    }

    /// Has so many tokens at hand, for a test that takes more than its user's allowance.
    pub async fn restock(&self, number: usize) {
        let missing = number.saturating_sub(self.payer().await.held());
        if missing > 0 {
            self.lift_allowances().await;
            self.stock(missing.max(1000)).await;
        }
    }

    /// Lets each user take as many tokens as it likes.
    pub async fn lift_allowances(&self) {
        let sql = "SELECT operator.set_allowance(2000000000)";
        self.admin.execute(sql, &[]).await.expect("the operator may");
    }

    /// A token that was never shown.
    pub fn token(&self) -> Vec<u8> {
        self.stocked().token()
    }

    /// The request with a token of its own.
    pub fn paid(&self, call: Call) -> Call {
        self.stocked().paid(call)
    }

    /// The issuer's key of the usual type.
    pub fn token_key(&self) -> &[u8] {
        self.stocked().issuer_key()
    }

    fn stocked(&self) -> &Payer {
        self.payer.get().expect("the test stocks as many tokens as it spends")
    }

    pub async fn send(&self, wire: &Wire) -> Reply {
        self.send_to(self.server(), wire).await
    }

    /// Sends a request to another server of the same database.
    pub async fn send_to(&self, server: &Server, wire: &Wire) -> Reply {
        self.way_to(server).send(wire).await
    }

    /// Sends a request with a token of its own.
    pub async fn pay(&self, call: &Call) -> Reply {
        self.send(&self.paid(call.clone()).wire()).await
    }

    pub async fn mailbox(&self, kind: QueueKind) -> Mailbox {
        self.stocked().mailbox(kind).await
    }

    /// A new address of a mailbox.
    pub async fn address(&self, mailbox: &Mailbox) -> Address {
        self.stocked().address(mailbox).await
    }

    /// Acknowledges the messages read before, and reads those that wait.
    pub async fn read(&self, mailbox: &mut Mailbox) -> Vec<QueuePayload> {
        let dequeued = self.pay(&mailbox.asking(mailbox.position)).await.decode();
        mailbox.open(&dequeued)
    }

    /// Sends a request that must be refused like this, must change nothing, and must cost its token, if it had a
    /// valid one.
    pub async fn assert_refused(&self, what: &str, wire: &Wire, expected: ProblemType) {
        let before = self.snapshot().await;
        let reply = self.send(wire).await;
        let problem = reply.problem(what);
        assert_eq!(problem.kind, expected, "{what}: {problem}");
        reply.assert_says_nothing_of(&wire.private_texts(), what);
        self.snapshot().await.assert_same(&before, what);
        if let Some(nonce) = &wire.nonce {
            let worthless = expected == ProblemType::TokenRequired;
            assert_eq!(self.is_spent(nonce).await, !worthless, "{what}: what became of the token");
        }
    }

    /// As [`World::assert_refused`], paying first.
    pub async fn assert_refuses(&self, what: &str, call: &Call, expected: ProblemType) {
        self.assert_refused(what, &self.paid(call.clone()).wire(), expected).await;
    }

    /// Refused as MLS that is not valid, for this reason.
    pub async fn assert_refused_for(&self, what: &str, call: &Call, reason: &str) {
        let reply = self.pay(call).await;
        let problem = reply.assert_problem(what, ProblemType::InvalidMls);
        let detail = problem.detail.expect("the developer is told why");
        assert!(detail.contains(reason), "{what}: {detail}");
    }

    pub async fn is_spent(&self, nonce: &[u8]) -> bool {
        let sql = "SELECT EXISTS (SELECT FROM aas.spent WHERE nonce = $1)";
        self.admin.query_one(sql, &[&nonce]).await.expect("it can be read").get(0)
    }

    /// One value that the superuser reads.
    pub async fn value<T: for<'a> FromSql<'a>>(&self, sql: &str) -> T {
        self.admin.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    pub async fn count(&self, rows: &str) -> i64 {
        self.value(&format!("SELECT count(*) FROM {rows}")).await
    }

    /// Returns the session of a request whose statement has this in it and waits for a lock, once there is one. One that
    /// waited for a second is where it goes on waiting: at first requests wait for a moment only, in another session. In
    /// a [`WorldBuilder::patient`] world.
    pub async fn caught(&self, statement: &str) -> i32 {
        let waiting = "SELECT pid FROM pg_stat_activity
                        WHERE usename = 'postern_server' AND wait_event_type = 'Lock'
                          AND position($1 IN query) > 0
                          AND clock_timestamp() - query_start > interval '1 second'";
        eventually("a request waits for a lock", async || {
            let waiting = self.admin.query(waiting, &[&statement]).await.expect("it can be read");
            waiting.first().map(|row| row.get(0))
        })
        .await
    }

    /// Nothing panicked or failed, and no log knows whom it was about (PRIV-4).
    pub fn close(self) {
        let servers: String = self.servers.iter().map(Server::log).collect();
        let postgres = self.cluster.log();
        // A statement that meets a lock for a moment, as on a busy machine any may, is made again: it is no failure of
        // its own. A vacuum that comes by the clock gives way to whoever wants a lock of its table, and comes again.
        let expected = ["canceling statement due to lock timeout", "canceling autovacuum task"];
        let is_expected = |line: &&str| expected.iter().any(|text| line.contains(text));
        let unexpected: Vec<_> = postgres.lines().filter(|line| !is_expected(line)).collect();
        let unexpected = unexpected.join("\n");
        for trouble in ["panicked", "ERROR"] {
            assert!(!servers.contains(trouble), "the server's log:\n{servers}");
        }
        for trouble in ["ERROR:", "PANIC:", "terminated by signal"] {
            assert!(!unexpected.contains(trouble), "PostgreSQL's log:\n{postgres}");
        }
        for text in self.private.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            assert!(!servers.contains(text), "the server's log holds {text}");
            assert!(!postgres.contains(text), "PostgreSQL's log holds {text}");
        }
    }
}
