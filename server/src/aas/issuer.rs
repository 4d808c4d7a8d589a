//! The issuer (RFC 9578): holds the ring of keys, replaces it when the database has other keys, and makes the keys that
//! are due according to the database. The database also decides which requests get tokens, and whether a token was
//! spent.

use std::sync::Arc;

use anyhow::{Context, bail};
use http::HeaderValue;
use postern_protocol::{
    name::Domain,
    token::{self, TOKEN_TYPES, Token, TokenType},
};
use tokio::task::spawn_blocking;

use super::{
    issuer_key::IssuerKey,
    key_ring::{KeyRing, PURPOSE},
};
use crate::{
    compute::FairCompute,
    database::{DatabaseError, SqlOutcome, outcome},
    home::{Home, PUBLISHED_MAX_AGE},
    http::{Failure, RedeemedToken, SourceAddress},
    keys::Held,
};

/// Tokens of type 0x0001 that are verified at once.
const VERIFYING: usize = 1;
/// Attempts at a new key: truncated key ids of a token type must differ. With a handful of keys, a
/// second attempt is rare, and this many never fail.
const ATTEMPTS: usize = 20;

outcome! {
    pub AddIssuerKeyOutcome: "aas.add_issuer_key_outcome" {
        Added = "added",
        NotDue = "not_due",
        Collides = "collides",
    }
}

pub struct Issuer {
    home: Home,
    challenge_digests: Vec<(TokenType, [u8; 32])>,
    ring: Held<KeyRing>,
    /// Verifies tokens whose verification takes milliseconds: anyone can show false ones, which must not take the
    /// permits of requests that are paid for, and not the time of other networks.
    verifying: FairCompute<String>,
}

impl Issuer {
    /// Loads the keys, after making those that are due. Several processes can do this at once: the
    /// database accepts one new key of each type.
    pub async fn load(home: &Home) -> anyhow::Result<Self> {
        let challenge_digests = TOKEN_TYPES
            .into_iter()
            .map(|kind| Ok((kind, token::challenge_of(kind, &home.domain).digest()?)))
            .collect::<anyhow::Result<_>>()
            .context("cannot make the token challenge")?;
        let issuer = Self {
            home: home.clone(),
            challenge_digests,
            ring: Held::new(KeyRing::default()),
            verifying: FairCompute::new(VERIFYING, home.limits.compute_wait()),
        };
        issuer.make_due_keys().await?;
        issuer.reload().await?;
        Ok(issuer)
    }

    /// The keys as they are now.
    pub fn ring(&self) -> Arc<KeyRing> {
        self.ring.now()
    }

    /// Replaces the ring by the keys in the database.
    ///
    /// # Errors
    /// A database that does not answer; keys that do not open, which leave the ring as it was.
    pub async fn reload(&self) -> anyhow::Result<()> {
        let sql = "SELECT issuer_key, token_type, public_key, sealed_seed, not_before, not_after, retires
                     FROM aas.load_issuer_keys()";
        let rows = self.home.database.query(sql, &[]).await?;
        let ring = KeyRing::open(&rows, &self.home.master_key, &self.ring())?;
        self.ring.replace(ring);
        Ok(())
    }

    /// Makes the keys that are due; [`Self::reload`] then takes them into the ring.
    ///
    /// # Errors
    /// A database that does not answer, or a failing random number generator.
    pub async fn make_due_keys(&self) -> anyhow::Result<()> {
        let types = TOKEN_TYPES.map(|kind| kind as i32);
        let sql = "SELECT token_type FROM aas.due_issuer_keys($1)";
        let rows = self.home.database.query(sql, &[&types.as_slice()]).await?;
        let due: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        for token_type in TOKEN_TYPES.into_iter().filter(|kind| due.contains(&(*kind as i32))) {
            self.make_key(token_type).await?;
        }
        Ok(())
    }

    async fn make_key(&self, token_type: TokenType) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            let (key, kept) = spawn_blocking(move || IssuerKey::generate(token_type)).await??;
            let sealed = self.home.master_key.seal(PURPOSE, key.public(), &kept);
            let max_age = i32::try_from(PUBLISHED_MAX_AGE)?;
            let row = self
                .home
                .database
                .query_one(
                    "SELECT outcome FROM aas.add_issuer_key($1, $2, $3, $4)",
                    &[&(token_type as i32), &key.public(), &sealed, &max_age],
                )
                .await?;
            match AddIssuerKeyOutcome::of(&row)? {
                AddIssuerKeyOutcome::Added => {
                    tracing::info!("made a new issuer key for token type {}", token_type as u16);
                    return Ok(());
                }
                AddIssuerKeyOutcome::NotDue => return Ok(()),
                AddIssuerKeyOutcome::Collides => {}
            }
        }
        bail!("cannot make an issuer key: the truncated key id of every attempt was in use")
    }

    /// Looks something up in the ring, and if it is not there, once more after a reload.
    pub async fn find<T>(&self, look_up: impl Fn(&KeyRing) -> Option<T>) -> Result<Option<T>, DatabaseError> {
        self.ring.find(look_up, self.reload()).await
    }

    /// Verifies a token: it must be for this server's challenge, and issued with one of its keys.
    ///
    /// # Errors
    /// A database that does not answer when asked for an unknown key; too many tokens of type 0x0001 at once.
    pub async fn redeem(
        &self,
        token: Token,
        source: SourceAddress,
    ) -> Result<Option<RedeemedToken>, Failure> {
        let challenge = (token.token_type(), *token.challenge_digest());
        if !self.challenge_digests.contains(&challenge) {
            return Ok(None);
        }
        let find = |ring: &KeyRing| ring.redeeming(&token).map(|key| (key.number, key.key.clone()));
        let Some((number, key)) = self.find(find).await? else {
            return Ok(None);
        };
        let nonce = token.nonce();
        let verified = match token.token_type() {
            // Takes over a millisecond.
            TokenType::PrivateP384 => self.verifying.run(source.network(), || key.verify(&token)).await?,
            TokenType::Public | TokenType::PrivateRistretto255 => key.verify(&token),
        };
        Ok(verified.then_some(RedeemedToken { issuer_key: number, nonce }))
    }

    pub fn www_authenticate(&self, domain: &Domain) -> HeaderValue {
        let ring = self.ring();
        let offered: Vec<_> = ring.offered().collect();
        token::www_authenticate(domain, &offered)
    }
}
