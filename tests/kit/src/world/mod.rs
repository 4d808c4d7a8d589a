//! A cluster with servers, somebody to ask them, people with the client library, and a superuser's eye on what all of
//! them change.

mod gate;
mod people;
mod snapshot;

use std::{process::ExitStatus, sync::PoisonError};

use nix::sys::signal::Signal;
use postern_protocol::{
    Address, PublicKey,
    problem::ProblemType,
    qs::{QueueKind, QueuePayload},
};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::{Client as Connection, types::FromSql};

use crate::{
    Call, Cluster, IdentityProvider, Mailbox, MovedClock, Payer, PostgresRelay, Private, Reply, Server, Way,
    Wire, eventually, home,
};

pub use people::{befriend, joined};
pub use snapshot::Snapshot;

/// Dropping it stops everything; [`World::close`] also looks at the logs.
pub struct World {
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
}

/// A world to be.
#[must_use]
pub struct WorldBuilder {
    servers: usize,
    pushing: bool,
    relay: bool,
    tokens: usize,
    strict: bool,
    settings: Vec<(String, String)>,
    environment: Vec<(&'static str, String)>,
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
               SELECT operator.set_new_user_allowance(2000000000)";
    admin.batch_execute(sql).await.expect("the operator may");
}

impl WorldBuilder {
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

    /// Lets the servers know the identity provider.
    pub fn logins_at(self, provider: &IdentityProvider) -> Self {
        self.setting("POSTERN_OIDC_ISSUER", provider.issuer())
            .setting("POSTERN_OIDC_CLIENT_ID", IdentityProvider::CLIENT)
    }

    /// Lets PostgreSQL and the servers go by a clock that the test moves.
    pub fn by(mut self, clock: &MovedClock) -> Self {
        self.environment = clock.calendar();
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
        let mut servers = Vec::new();
        for _ in 0..self.servers {
            let mut server = Server::builder(&cluster);
            if self.pushing {
                server = server.pushing();
            }
            if let Some(relay) = &relay {
                server = server.through(relay);
            }
            for (name, value) in &self.settings {
                server = server.env(name, value);
            }
            servers.push(server.start().await);
        }
        let admin = cluster.admin().await;
        if !self.strict {
            lift_limits(&admin).await;
        }
        let key =
            admin.query_opt("SELECT public_key FROM ds.sender_keys", &[]).await.expect("it can be read");
        let server_key = key.map(|row| PublicKey::try_from(row.get::<_, &[u8]>(0)).expect("it is a key"));
        let homes = tempfile::tempdir().expect("/tmp is writable");
        let (http, private, payer) = (reqwest::Client::new(), Private::default(), OnceCell::new());
        let world = World { http, private, payer, server_key, admin, servers, relay, cluster, homes };
        if self.tokens > 0 {
            world.stock(self.tokens).await;
        }
        world
    }
}

impl World {
    pub fn builder() -> WorldBuilder {
        WorldBuilder {
            servers: 1,
            pushing: false,
            relay: false,
            tokens: 0,
            strict: false,
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// A server that sends pushes, and two hundred tokens at hand.
    pub async fn start() -> Self {
        Self::builder().pushing().tokens(200).start().await
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
            Server::builder(&self.cluster).listen(address).try_start().await.ok()
        })
        .await;
        status
    }

    /// Connects as a superuser again, once PostgreSQL takes sessions.
    pub async fn reconnect(&mut self) {
        self.admin = eventually("the database has recovered", async || self.cluster.try_admin().await).await;
    }

    /// The user whose tokens pay for requests here.
    pub async fn payer(&self) -> &Payer {
        self.payer.get_or_init(async || Payer::register(&self.way(0), &home(), "banker").await).await
    }

    /// Fetches tokens, so that [`World::token`] has them without a request of its own.
    pub async fn stock(&self, number: usize) {
        self.payer().await.stock(number).await;
    }

    /// Has so many tokens at hand, for a test that takes more than its user's allowance.
    pub async fn restock(&self, number: usize) {
        let missing = number.saturating_sub(self.payer().await.held());
        if missing > 0 {
            let sql = "SELECT operator.set_allowance(2000000000)";
            self.admin.execute(sql, &[]).await.expect("the operator may");
            self.stock(missing.max(1000)).await;
        }
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

    /// Nothing panicked or failed, and no log knows whom it was about (PRIV-4).
    pub fn close(self) {
        let servers: String = self.servers.iter().map(Server::log).collect();
        let postgres = self.cluster.log();
        for trouble in ["panicked", "ERROR"] {
            assert!(!servers.contains(trouble), "the server's log:\n{servers}");
        }
        for trouble in ["ERROR:", "PANIC:", "terminated by signal"] {
            assert!(!postgres.contains(trouble), "PostgreSQL's log:\n{postgres}");
        }
        for text in self.private.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            assert!(!servers.contains(text), "the server's log holds {text}");
            assert!(!postgres.contains(text), "PostgreSQL's log holds {text}");
        }
    }
}
