//! A server with its cluster, somebody to ask it, and a superuser's eye on what that changed.

mod friendship;
mod group;
mod mailbox;
mod mls;
mod provider;
mod reply;
mod request;
pub mod signature;
mod snapshot;
mod tokens;
mod user;

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard},
};

use postern_protocol::{PublicKey, problem::ProblemType};
use postern_tests::{Cluster, HOME, Server};
use tokio_postgres::Client;

pub use friendship::{
    Friendship, fetching, fetching_of, fresh_stock, fresh_token, last_resort, last_resort_of, package,
    package_for, package_of, packages, receiver, stocked,
};
pub use group::{Group, Member, creation, leaf_extensions, policy_extensions};
pub use mailbox::{Mailbox, fresh_address, hpke_key};
pub use mls::{Commit, Made, Party, SUITE, public_application};
pub use provider::{Library, Spoil, UNUSABLE};
pub use reply::Reply;
pub use request::{Call, Wire};
pub use tokens::{Impostor, TokenKey, TokenShape};
pub use user::{User, identity_commit, over, random_id, registration};

/// Dropping it stops everything; [`World::close`] also looks at the logs.
pub struct World {
    http: reqwest::Client,
    admin: Client,
    token_key: TokenKey,
    tokens: Mutex<Vec<Vec<u8>>>,
    banker: User,
    /// What must not be in any log: names, keys and ids that were sent.
    private: Mutex<BTreeSet<String>>,
    /// By which the server proposes removals in groups.
    pub server_key: PublicKey,
    pub server: Server,
    pub cluster: Cluster,
}

impl World {
    /// One with two hundred tokens at hand.
    pub async fn start() -> Self {
        let cluster = Cluster::start().await;
        let server = Server::builder(&cluster).pushing().start().await;
        let admin = cluster.admin().await;
        let http = reqwest::Client::new();
        let token_key = TokenKey::published(&http, server.url()).await;
        let banker = User::new("banker");
        let private = Mutex::default();
        let row = admin.query_one("SELECT public_key FROM ds.sender_keys", &[]).await.expect("there is one");
        let server_key = PublicKey::try_from(row.get::<_, &[u8]>(0)).expect("it is a key");
        let tokens = Mutex::default();
        let world = Self { http, admin, token_key, tokens, banker, private, server_key, server, cluster };
        world.register(&world.banker).await;
        world.stock(200).await;
        world
    }

    /// Fetches tokens, so that [`World::token`] has them without a request of its own.
    pub async fn stock(&self, number: usize) {
        for _ in 0..number.div_ceil(100) {
            let batch = self.token_key.issue(self, &self.banker.device.key, 100, &self.challenge()).await;
            self.purse().extend(batch);
        }
    }

    /// Has so many tokens at hand, for a test that takes more than its user's allowance.
    pub async fn restock(&self, number: usize) {
        let missing = number.saturating_sub(self.purse().len());
        if missing > 0 {
            let sql = "SELECT operator.set_allowance(2000000000)";
            self.admin.execute(sql, &[]).await.expect("the operator may");
            self.stock(missing.max(1000)).await;
        }
    }

    /// A token that was never shown.
    pub fn token(&self) -> Vec<u8> {
        self.purse().pop().expect("the test stocks as many tokens as it spends")
    }

    fn purse(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.tokens.lock().expect("no panic holds it")
    }

    pub fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    pub fn admin(&self) -> &Client {
        &self.admin
    }

    pub async fn send(&self, wire: &Wire) -> Reply {
        self.send_to(self.server.url(), wire).await
    }

    /// Sends a request to another server of the same database.
    pub async fn send_to(&self, server: &str, wire: &Wire) -> Reply {
        self.private.lock().expect("no panic holds it").extend(wire.identifiers());
        let url = format!("{server}{}", wire.target);
        let request =
            self.http.request(wire.method.clone(), url).headers(wire.headers.clone()).body(wire.body.clone());
        let answer =
            request.send().await.unwrap_or_else(|error| panic!("{} gets no answer: {error:?}", wire.target));
        Reply::read(answer).await
    }

    /// Sends a request with a token of its own.
    pub async fn pay(&self, call: &Call) -> Reply {
        self.send(&call.clone().paid_with(self.token()).wire()).await
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
        self.assert_refused(what, &call.clone().paid_with(self.token()).wire(), expected).await;
    }

    pub async fn is_spent(&self, nonce: &[u8]) -> bool {
        let sql = "SELECT EXISTS (SELECT FROM aas.spent WHERE nonce = $1)";
        self.admin.query_one(sql, &[&nonce]).await.expect("it can be read").get(0)
    }

    /// One value that the superuser reads.
    pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.admin.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }

    /// Nothing panicked or failed, and no log knows whom it was about (PRIV-4).
    pub fn close(self) {
        let (server, postgres) = (self.server.log(), self.cluster.log());
        for trouble in ["panicked", "ERROR"] {
            assert!(!server.contains(trouble), "the server's log:\n{server}");
        }
        for trouble in ["ERROR:", "PANIC:", "terminated by signal"] {
            assert!(!postgres.contains(trouble), "PostgreSQL's log:\n{postgres}");
        }
        for text in self.private.lock().expect("no panic holds it").iter() {
            assert!(!server.contains(text), "the server's log holds {text}");
            assert!(!postgres.contains(text), "PostgreSQL's log holds {text}");
        }
    }
}

/// The home domain of the server under test.
pub fn home() -> postern_protocol::name::Domain {
    HOME.parse().expect("it is a domain")
}
