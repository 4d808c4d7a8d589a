//! The wallet (FED-3): tokens of other domains' issuers, with which this server pays what it sends there for its groups. It
//! gets them as any homeserver does, against the allowance that the other operator gives to this domain (AAS-2). They are
//! in the database, sealed, for all processes; a token is deleted before it is sent. The blinds of a request are in memory
//! only: a crash costs the allowance of one.

use std::time::{Duration, Instant};

use postern_api::{Error, Request, Token};
use postern_protocol::{
    problem::ProblemType,
    token::{self, BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE},
};
use privacypass::{
    amortized_tokens::{AmortizedBatchTokenRequest, AmortizedBatchTokenResponse},
    common::private::deserialize_public_key,
};
use tls_codec::Serialize as _;
use tokio::time::timeout;
use voprf::Ristretto255;

use super::{Federation, discovery::Found, neighbour::Neighbour};
use crate::{
    clock::now,
    database::{DatabaseError, SqlOutcome, UnknownOutcome, outcome},
};

/// The purpose under which the master key seals tokens.
const PURPOSE: &str = "token";
/// Seconds after which another process asks for tokens if this one does not come back, and after which an issuer that gave
/// none is asked again, unless it says another time.
const LEASE: i32 = 60;
/// Time for a request for tokens.
const TIME: Duration = Duration::from_secs(45);

outcome! {
    pub TakeTokenOutcome: "federation.take_token_outcome" {
        Taken = "taken",
        None = "none",
        Blocked = "blocked",
    }
}

outcome! {
    pub ClaimRefillOutcome: "federation.claim_refill_outcome" {
        Claimed = "claimed",
        NotDue = "not_due",
        Blocked = "blocked",
    }
}

/// The reason why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    #[error("the wallet is empty, and it is not time yet to ask its issuer")]
    Empty,
    #[error("the operator does not let this server deal with the domain")]
    Blocked,
    #[error("the issuer has no key of type 0x0005")]
    NoKey,
    #[error("its tokens do not verify")]
    Unverified,
    #[error("the issuer does not answer in time")]
    Time,
    #[error("this server computes too much else")]
    Busy,
    #[error("{0}")]
    Refused(#[from] Error),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Outcome(#[from] UnknownOutcome),
}

impl NoToken {
    /// Whether the issuer gives no more at present.
    pub fn is_issuers_will(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Refused(error) => error.problem() == Some(ProblemType::AllowanceUsedUp),
            _ => false,
        }
    }

    /// Whether the issuer may have another key than the one in its description that was seen.
    fn is_about_the_key(&self) -> bool {
        match self {
            Self::NoKey | Self::Unverified => true,
            Self::Refused(error) => error.problem() == Some(ProblemType::UnknownTokenKey),
            _ => false,
        }
    }
}

impl Federation {
    /// Takes a token for a request to another homeserver. When few are left, others are asked for, in the background
    /// unless there is none.
    ///
    /// # Errors
    /// [`NoToken`].
    pub(super) async fn take_token(&self, neighbour: &Neighbour) -> Result<Token, NoToken> {
        if let Some((token, low)) = self.pop(neighbour).await? {
            if low {
                let (federation, neighbour) = (self.clone(), neighbour.clone());
                tokio::spawn(async move {
                    match federation.refill(&neighbour).await {
                        Ok(()) | Err(NoToken::Empty) => {}
                        Err(error) => tracing::debug!("no new tokens of another homeserver: {error}"),
                    }
                });
            }
            return Ok(token);
        }
        // It goes on if the attempt that needs it does not: nobody else may ask meanwhile, and the tokens are kept.
        let (federation, refilled) = (self.clone(), neighbour.clone());
        let refill = tokio::spawn(async move { federation.refill(&refilled).await });
        match refill.await.unwrap_or(Err(NoToken::Time)) {
            // Somebody else may have asked.
            Ok(()) | Err(NoToken::Empty) => {}
            Err(error) => return Err(error),
        }
        self.pop(neighbour).await?.map(|(token, _)| token).ok_or(NoToken::Empty)
    }

    /// A token, and whether few are left.
    async fn pop(&self, neighbour: &Neighbour) -> Result<Option<(Token, bool)>, NoToken> {
        loop {
            let sql = "SELECT outcome, id, sealed, low FROM federation.take_token($1)";
            let row = self.home.database.query_one(sql, &[&neighbour.domain.as_str()]).await?;
            match TakeTokenOutcome::of(&row)? {
                TakeTokenOutcome::None => return Ok(None),
                TakeTokenOutcome::Blocked => return Err(NoToken::Blocked),
                TakeTokenOutcome::Taken => {}
            }
            // One that does not open is lost.
            if let Ok(token) = self.home.master_key.open(PURPOSE, row.get("id"), row.get("sealed")) {
                return Ok(Some((Token::new(token.to_vec()), row.get("low"))));
            }
        }
    }

    /// Asks for tokens, if nobody else does.
    async fn refill(&self, neighbour: &Neighbour) -> Result<(), NoToken> {
        let sql = "SELECT outcome, tokens FROM federation.claim_refill($1, $2)";
        let row = self.home.database.query_one(sql, &[&neighbour.domain.as_str(), &LEASE]).await?;
        match ClaimRefillOutcome::of(&row)? {
            ClaimRefillOutcome::NotDue => return Err(NoToken::Empty),
            ClaimRefillOutcome::Blocked => return Err(NoToken::Blocked),
            ClaimRefillOutcome::Claimed => {}
        }
        let number = u16::try_from(row.get::<_, i32>("tokens")).map_err(|_| NoToken::Empty)?;
        let asked = timeout(TIME, self.ask_for_tokens(neighbour, number)).await.unwrap_or(Err(NoToken::Time));
        if asked.as_ref().is_err_and(|error| !error.is_issuers_will()) {
            let sql = "SELECT federation.end_refill($1)";
            self.home.database.query_one(sql, &[&neighbour.domain.as_str()]).await?;
        }
        let (key_id, tokens) = asked?;
        let ids: Vec<[u8; 16]> = tokens.iter().map(|_| rand::random()).collect();
        let seal = |(id, token): (&[u8; 16], &Vec<u8>)| self.home.master_key.seal(PURPOSE, id, token);
        let sealed: Vec<Vec<u8>> = ids.iter().zip(&tokens).map(seal).collect();
        let ids: Vec<&[u8]> = ids.iter().map(<[u8; 16]>::as_slice).collect();
        let sql = "SELECT federation.keep_tokens($1, $2, $3, $4)";
        let domain = neighbour.domain.as_str();
        self.home.database.query_one(sql, &[&domain, &key_id.as_slice(), &ids, &sealed]).await?;
        Ok(())
    }

    /// New tokens, and the id of the key that they were made with. Where the issuer does not know the key that was seen, its
    /// homeserver is looked at anew (FED-1), and asked once more if it has another one: what is asked for with a dead key fails
    /// each time, and takes from the allowance where the issuer finds out late.
    async fn ask_for_tokens(
        &self,
        neighbour: &Neighbour,
        number: u16,
    ) -> Result<([u8; 32], Vec<Vec<u8>>), NoToken> {
        let error = match self.ask_with_the_key_seen(neighbour, number).await {
            Err(error) if error.is_about_the_key() => error,
            asked => return asked,
        };
        match self.with_another_key(neighbour).await {
            Some(fresh) => self.ask_with_the_key_seen(&fresh, number).await,
            None => Err(error),
        }
    }

    /// The homeserver after another look at it, if its issuer has another key than before.
    async fn with_another_key(&self, neighbour: &Neighbour) -> Option<Neighbour> {
        let found = Found::find(&self.home, &neighbour.domain, true).await.ok()?;
        let fresh = self.neighbour(&neighbour.domain, found, None).await.ok()?;
        let key = |homeserver: &Neighbour| homeserver.description.issuer.current_key(now());
        (key(&fresh) != key(neighbour)).then_some(fresh)
    }

    /// Asks for tokens with the key in the description at hand.
    async fn ask_with_the_key_seen(
        &self,
        neighbour: &Neighbour,
        number: u16,
    ) -> Result<([u8; 32], Vec<Vec<u8>>), NoToken> {
        let issuer = &neighbour.description.issuer;
        let public_key = issuer.current_key(now()).ok_or(NoToken::NoKey)?;
        let key = deserialize_public_key::<Ristretto255>(&public_key).map_err(|_| NoToken::NoKey)?;
        let challenge = token::challenge(&neighbour.domain);
        // A hundred points, as many again for the answer, and its proof.
        let blind = || AmortizedBatchTokenRequest::new(key, &challenge, number);
        let blinded = self.aas.compute_for(&neighbour.domain, blind).await.map_err(|_| NoToken::Busy)?;
        let (request, state) = blinded.map_err(|_| NoToken::NoKey)?;
        let request = request.tls_serialize_detached().map_err(|_| NoToken::NoKey)?;
        let request = Request::post(issuer.issuer_request_uri.clone())
            .body(BATCH_REQUEST_MEDIA_TYPE, request)
            .accepting(BATCH_RESPONSE_MEDIA_TYPE);
        let answer = self.exchange(neighbour, request).await?;
        if let Some(limit) = answer.rate_limit {
            self.allowances.note(&neighbour.domain, limit, None, Instant::now());
        }
        if answer.problem().is_some_and(|problem| problem.kind == ProblemType::AllowanceUsedUp) {
            let resets_in = answer.rate_limit.map(|limit| limit.resets_in);
            self.put_off_refill(neighbour, answer.retry_after.or(resets_in)).await?;
        }
        let answer = answer.accepted()?;
        let unblind = || {
            let response = AmortizedBatchTokenResponse::<Ristretto255>::try_from_bytes(&answer.body).ok()?;
            response.issue_tokens(&state).ok()
        };
        let tokens = self.aas.compute_for(&neighbour.domain, unblind).await.map_err(|_| NoToken::Busy)?;
        let tokens = tokens.ok_or(NoToken::Unverified)?;
        Ok((token::token_key_id(&public_key), tokens.iter().map(token::to_bytes).collect()))
    }

    /// Notes the time from which on the issuer gives tokens again, as it says. Until then it would refuse all requests.
    async fn put_off_refill(
        &self,
        neighbour: &Neighbour,
        time: Option<Duration>,
    ) -> Result<(), DatabaseError> {
        let Some(seconds) = time.and_then(|time| i32::try_from(time.as_secs()).ok()) else { return Ok(()) };
        let sql = "SELECT federation.put_off_refill($1, $2)";
        self.home.database.query_one(sql, &[&neighbour.domain.as_str(), &seconds]).await?;
        Ok(())
    }

    /// Drops tokens that were made with other keys than the issuer's present one.
    ///
    /// # Errors
    /// A database that does not answer.
    pub(super) async fn drop_stale_tokens(&self, neighbour: &Neighbour) -> Result<(), DatabaseError> {
        let key_id = neighbour.description.issuer.current_key(now()).map(|key| token::token_key_id(&key));
        let key_id = key_id.as_ref().map(<[u8; 32]>::as_slice);
        let sql = "SELECT federation.drop_tokens($1, $2)";
        self.home.database.query_one(sql, &[&neighbour.domain.as_str(), &key_id]).await?;
        Ok(())
    }
}
