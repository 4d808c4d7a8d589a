//! The world as those see it who ask for tokens and spend them.

use postern_protocol::{
    aas::{IssuerDirectory, TokenKey},
    key::SigningKey,
    token::{DIRECTORY_PATH, TokenType},
};
use reqwest::{StatusCode, header::CONTENT_TYPE};

use crate::{Ask, Call, Reply, User, World, asking_for_tokens, bytes_of, now};

impl World {
    /// The client of a new user.
    pub async fn client(&self, name: &str) -> SigningKey {
        let user = User::at(self.domain(), name);
        self.register(&user).await;
        user.device.key
    }

    /// All of the issued tokens that the database counts.
    pub async fn issued(&self) -> i64 {
        self.value("SELECT coalesce(sum(tokens), 0)::bigint FROM operator.tokens_issued()").await
    }

    pub async fn directory(&self, server: usize) -> IssuerDirectory {
        let reply = self.way(server).send(&Call::get(DIRECTORY_PATH).wire()).await;
        serde_json::from_slice(&reply.body).expect("it is a directory")
    }

    /// The directory's keys of a type, in its order.
    pub async fn issuer_keys(&self, server: usize, token_type: TokenType) -> Vec<TokenKey> {
        let keys = self.directory(server).await.token_keys;
        keys.into_iter().filter(|key| key.token_type == token_type as u16).collect()
    }

    /// The bytes of the key of a type that is in use.
    pub async fn issuer_key(&self, token_type: TokenType) -> Vec<u8> {
        let keys = self.issuer_keys(0, token_type).await;
        let used = keys.iter().find(|key| key.not_before.unwrap_or_default() <= now());
        bytes_of(used.expect("one is in use"))
    }

    pub async fn ask(
        &self,
        server: usize,
        client: &SigningKey,
        media_type: &'static str,
        body: &[u8],
    ) -> Reply {
        let call = asking_for_tokens(client, media_type, body.to_vec()).at(self.domain());
        self.way(server).send(&call.wire()).await
    }

    /// Asks, expects tokens, and finalises them.
    pub async fn tokens(&self, server: usize, client: &SigningKey, ask: &Ask) -> Vec<Vec<u8>> {
        let reply = self.ask(server, client, ask.media_type, &ask.body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_eq!(reply.headers[CONTENT_TYPE], ask.media_type.replace("request", "response"));
        ask.open(&reply.body)
    }

    /// Something that costs a token and needs nothing else.
    pub async fn spend(&self, server: usize, token: &[u8]) -> Reply {
        self.way(server).send(&Call::post("/ds/group-ids").paid_with(token.to_vec()).wire()).await
    }

    /// Lets days pass for the issuer keys, and tells the servers to look.
    pub async fn pass_days(&self, days: i32) {
        let sql = format!(
            "UPDATE aas.issuer_keys SET not_before = not_before - {days}, not_after = not_after - {days},
                                        retires = retires - {days};
             NOTIFY postern_issuer_keys"
        );
        self.admin.batch_execute(&sql).await.expect("days can pass");
    }
}
