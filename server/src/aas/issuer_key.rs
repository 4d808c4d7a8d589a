//! An issuer key of any token type (RFC 9578): it is made here, turned into bytes for sealing,
//! evaluates blinded elements and verifies tokens. The mathematics is `privacypass`'s; the ring
//! knows when a key may be used, the issuer which challenge a token must be for.

use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use blind_rsa_signatures::{Deterministic, KeyPair, PSS, SecretKey, Sha384};
use futures_util::FutureExt as _;
use p384::NistP384;
use postern_protocol::token::{self, Token, TokenType};
use privacypass::{
    Nonce, NonceStore, TruncatedTokenKeyId,
    amortized_tokens::{self, AmortizedBatchTokenRequest},
    common::{
        private::{PrivateCipherSuite, serialize_public_key},
        store::PrivateKeyStore,
    },
    generic_tokens::{GenericTokenRequest, GenericTokenResponse},
    private_tokens,
    public_tokens::{
        self,
        server::{IssuerKeyStore, IssuerServer, OriginKeyStore, OriginServer},
    },
};
use tls_codec::{Deserialize as _, Serialize as _};
use voprf::{BlindedElement, Ristretto255, VoprfServer};
use zeroize::Zeroizing;

/// The info string with which a key pair is derived from its seed (RFC 9578 §5.5, §8.2.1).
const KEY_INFO: &[u8] = b"PrivacyPass";
const SEED_LEN_P384: usize = 48;
const SEED_LEN_RISTRETTO255: usize = 32;

type RsaKeyPair = KeyPair<Sha384, PSS, Deterministic>;

/// The private key. It overwrites itself when dropped, as do the copies that `privacypass` asks for
/// and the [`Zeroizing`] bytes that it was made from. Two traces are left: an RSA key's reduction
/// parameters of its primes, which `rsa` 0.10 does not overwrite, and copies on the stack.
enum Secret {
    PrivateP384(VoprfServer<NistP384>),
    Public(Box<RsaKeyPair>),
    PrivateRistretto255(VoprfServer<Ristretto255>),
}

pub struct IssuerKey {
    secret: Secret,
    public: Vec<u8>,
    id: [u8; 32],
}

/// A blinded element or message is not valid, so no token can be issued for it.
#[derive(Debug, thiserror::Error)]
#[error("a blinded element is not valid for its token type")]
pub struct NotBlinded;

impl IssuerKey {
    /// Makes a key. Also returns the bytes from which [`Self::from_kept`] makes it again.
    ///
    /// # Errors
    /// A failing random number generator.
    pub fn generate(token_type: TokenType) -> anyhow::Result<(Self, Zeroizing<Vec<u8>>)> {
        let seed = |length| {
            let mut seed = Zeroizing::new(vec![0; length]);
            aws_lc_rs::rand::fill(&mut seed).context("cannot get random bytes for an issuer key")?;
            anyhow::Ok(seed)
        };
        let kept = match token_type {
            TokenType::PrivateP384 => seed(SEED_LEN_P384)?,
            TokenType::PrivateRistretto255 => seed(SEED_LEN_RISTRETTO255)?,
            TokenType::Public => {
                use aws_lc_rs::rsa::{KeyPair, KeySize};
                let pair = KeyPair::generate(KeySize::Rsa2048).context("cannot make an RSA key")?;
                let der: Pkcs8V1Der<'_> = pair.as_der().context("cannot make an RSA key")?;
                Zeroizing::new(der.as_ref().to_vec())
            }
        };
        Ok((Self::from_kept(token_type, &kept)?, kept))
    }

    /// Makes the key from a seed, or for type 0x0002 from a private key in PKCS #8.
    ///
    /// # Errors
    /// Bytes that yield no key.
    pub fn from_kept(token_type: TokenType, kept: &[u8]) -> anyhow::Result<Self> {
        let no_key = |_| anyhow!("the seed of an issuer key yields no key");
        Self::new(match token_type {
            TokenType::PrivateP384 => {
                Secret::PrivateP384(VoprfServer::new_from_seed(kept, KEY_INFO).map_err(no_key)?)
            }
            TokenType::PrivateRistretto255 => {
                Secret::PrivateRistretto255(VoprfServer::new_from_seed(kept, KEY_INFO).map_err(no_key)?)
            }
            TokenType::Public => rsa(kept)?,
        })
    }

    /// Makes the key from a private key in the encoding of its token type's test vectors: a scalar, or PKCS #8.
    ///
    /// # Errors
    /// Bytes that are not a private key.
    pub fn from_private_key(token_type: TokenType, key: &[u8]) -> anyhow::Result<Self> {
        let no_key = |_| anyhow!("these bytes are not a private key");
        Self::new(match token_type {
            TokenType::PrivateP384 => Secret::PrivateP384(VoprfServer::new_with_key(key).map_err(no_key)?),
            TokenType::PrivateRistretto255 => {
                Secret::PrivateRistretto255(VoprfServer::new_with_key(key).map_err(no_key)?)
            }
            TokenType::Public => rsa(key)?,
        })
    }

    fn new(secret: Secret) -> anyhow::Result<Self> {
        let public = match &secret {
            Secret::PrivateP384(key) => serialize_public_key::<NistP384>(key.get_public_key()),
            Secret::PrivateRistretto255(key) => serialize_public_key::<Ristretto255>(key.get_public_key()),
            Secret::Public(pair) => pair.pk.to_spki().context("cannot encode an RSA key")?,
        };
        Ok(Self { id: token::token_key_id(&public), public, secret })
    }

    /// The public key in the encoding of its token type (RFC 9578 §5.5, §6.5).
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The token key id: SHA-256 of the public key (RFC 9578 §6.5).
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    pub fn token_type(&self) -> TokenType {
        match self.secret {
            Secret::PrivateP384(_) => TokenType::PrivateP384,
            Secret::Public(_) => TokenType::Public,
            Secret::PrivateRistretto255(_) => TokenType::PrivateRistretto255,
        }
    }

    /// The last byte of the id, by which token requests name the key (RFC 9578 §5.1).
    pub fn truncated_id(&self) -> TruncatedTokenKeyId {
        self.id[31]
    }

    /// Length in bytes of a blinded element or message of a token type.
    pub const fn blinded_len(token_type: TokenType) -> usize {
        match token_type {
            TokenType::PrivateP384 => 49,
            TokenType::Public => public_tokens::NK,
            TokenType::PrivateRistretto255 => 32,
        }
    }

    /// Whether a token can be issued for these bytes: an element of the group, or a number below
    /// the modulus. A hundred elements take milliseconds.
    pub fn accepts(&self, blinded: &[u8]) -> bool {
        match &self.secret {
            Secret::PrivateP384(_) => BlindedElement::<NistP384>::deserialize(blinded).is_ok(),
            Secret::PrivateRistretto255(_) => BlindedElement::<Ristretto255>::deserialize(blinded).is_ok(),
            Secret::Public(pair) => {
                let modulus = pair.pk.components().n();
                blinded.len() == modulus.len() && blinded < modulus.as_slice()
            }
        }
    }

    /// Issues one token: 0.1 to 2.5 ms of CPU.
    ///
    /// # Errors
    /// [`NotBlinded`], also for a request of another type.
    pub fn issue(&self, request: GenericTokenRequest) -> Result<GenericTokenResponse, NotBlinded> {
        match (&self.secret, request) {
            (Secret::PrivateP384(key), GenericTokenRequest::PrivateP384(request)) => {
                issue_private(key, *request).map(Box::new).map(GenericTokenResponse::PrivateP384)
            }
            (Secret::PrivateRistretto255(key), GenericTokenRequest::PrivateRistretto255(request)) => {
                issue_private(key, *request).map(Box::new).map(GenericTokenResponse::PrivateRistretto255)
            }
            (Secret::Public(pair), GenericTokenRequest::Public(request)) => IssuerServer::new()
                .issue_token_response(&OneKey(pair.as_ref()), *request)
                .now_or_never()
                .ok_or(NotBlinded)?
                .map(|response| GenericTokenResponse::Public(Box::new(response)))
                .map_err(|_| NotBlinded),
            _ => Err(NotBlinded),
        }
    }

    /// Issues a batch under one proof: takes an `AmortizedBatchTokenRequest`, returns the response.
    /// Type 0x0005 takes 0.13 ms of CPU a token.
    ///
    /// # Errors
    /// [`NotBlinded`], also for a batch of another type.
    pub fn issue_batch(&self, request: &[u8]) -> Result<Vec<u8>, NotBlinded> {
        fn issue<CS: PrivateCipherSuite>(key: &VoprfServer<CS>, request: &[u8]) -> Result<Vec<u8>, NotBlinded>
        where
            VoprfServer<CS>: Send + Sync,
        {
            let request =
                AmortizedBatchTokenRequest::<CS>::tls_deserialize_exact(request).map_err(|_| NotBlinded)?;
            let server = amortized_tokens::server::Server::<CS>::with_max_batch_size(usize::MAX);
            let issued = server.issue_token_response(&OneKey(key), request).now_or_never();
            let response = issued.ok_or(NotBlinded)?.map_err(|_| NotBlinded)?;
            response.tls_serialize_detached().map_err(|_| NotBlinded)
        }
        match &self.secret {
            Secret::PrivateP384(key) => issue(key, request),
            Secret::PrivateRistretto255(key) => issue(key, request),
            Secret::Public(_) => Err(NotBlinded),
        }
    }

    /// Whether this key issued the token. Type 0x0001 takes 1.4 ms of CPU, the others 0.1.
    pub fn verify(&self, token: &Token) -> bool {
        if *token.token_key_id() != self.id {
            return false;
        }
        match (&self.secret, token) {
            (Secret::PrivateP384(key), Token::PrivateP384(token)) => {
                private_tokens::server::Server::<NistP384>::new()
                    .redeem_token(&OneKey(key), &SpentInDatabase, token.as_ref().clone())
                    .now_or_never()
                    .is_some_and(|verified| verified.is_ok())
            }
            (Secret::PrivateRistretto255(key), Token::PrivateRistretto255(token)) => {
                amortized_tokens::server::Server::<Ristretto255>::new()
                    .redeem_token(&OneKey(key), &SpentInDatabase, token.as_ref().clone())
                    .now_or_never()
                    .is_some_and(|verified| verified.is_ok())
            }
            (Secret::Public(pair), Token::Public(token)) => OriginServer::new()
                .redeem_token(&OneKey(pair.as_ref()), &SpentInDatabase, token.as_ref().clone())
                .now_or_never()
                .is_some_and(|verified| verified.is_ok()),
            _ => false,
        }
    }
}

fn rsa(pkcs8: &[u8]) -> anyhow::Result<Secret> {
    let sk = SecretKey::from_der(pkcs8).map_err(|_| anyhow!("cannot decode an RSA key"))?;
    let pk = sk.public_key().map_err(|_| anyhow!("an RSA key has no public key"))?;
    if pk.components().n().len() != public_tokens::NK {
        bail!("an RSA key does not have 2048 bits");
    }
    Ok(Secret::Public(Box::new(KeyPair { pk, sk })))
}

fn issue_private<CS: PrivateCipherSuite>(
    key: &VoprfServer<CS>,
    request: private_tokens::TokenRequest<CS>,
) -> Result<private_tokens::TokenResponse<CS>, NotBlinded>
where
    VoprfServer<CS>: Send + Sync,
{
    private_tokens::server::Server::<CS>::new()
        .issue_token_response(&OneKey(key), request)
        .now_or_never()
        .ok_or(NotBlinded)?
        .map_err(|_| NotBlinded)
}

/// A key store with the one key that was chosen already: `privacypass` asks a store for it.
struct OneKey<'a, K>(&'a K);

#[async_trait]
impl<CS: PrivateCipherSuite> PrivateKeyStore for OneKey<'_, VoprfServer<CS>>
where
    VoprfServer<CS>: Send + Sync,
{
    type CS = CS;

    async fn get(&self, _: &TruncatedTokenKeyId) -> Option<VoprfServer<CS>> {
        Some(self.0.clone())
    }
    /// Keys come from the database only.
    async fn insert(&self, _: TruncatedTokenKeyId, _: VoprfServer<CS>) -> bool {
        false
    }
    async fn remove(&self, _: &TruncatedTokenKeyId) -> bool {
        false
    }
}

#[async_trait]
impl IssuerKeyStore for OneKey<'_, RsaKeyPair> {
    async fn get(&self, _: &TruncatedTokenKeyId) -> Option<RsaKeyPair> {
        Some(self.0.clone())
    }
    async fn insert(&self, _: TruncatedTokenKeyId, _: RsaKeyPair) -> bool {
        false
    }
    async fn remove(&self, _: &TruncatedTokenKeyId) -> bool {
        false
    }
}

#[async_trait]
impl OriginKeyStore for OneKey<'_, RsaKeyPair> {
    async fn get(&self, _: &TruncatedTokenKeyId) -> Vec<public_tokens::PublicKey> {
        vec![self.0.pk.clone()]
    }
    async fn insert(&self, _: TruncatedTokenKeyId, _: public_tokens::PublicKey) {}
    async fn remove(&self, _: &TruncatedTokenKeyId) -> bool {
        false
    }
}

/// A store of nonces that accepts every nonce: the database finds double spends (AAS-4), across
/// processes and crashes.
struct SpentInDatabase;

#[async_trait]
impl NonceStore for SpentInDatabase {
    async fn reserve(&self, _: &Nonce) -> bool {
        true
    }
    async fn commit(&self, _: &Nonce) {}
    async fn release(&self, _: &Nonce) {}
}
