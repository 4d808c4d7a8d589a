//! `POST /qs/key-packages/rotate` (QS-6): replaces a friendship token. Contacts that do not learn the new one can no
//! longer fetch. The packages stay as they are; the keys of their stocks are sealed again.

use http::StatusCode;
use postern_protocol::{
    PublicKey, StockId,
    problem::{Problem, ProblemType},
    qs::RotateFriendshipToken,
};

use super::Qs;
use crate::{
    database::outcome,
    http::{Answer, Failure, Outcome, Payment, Request},
};

/// Attempts: a client of the user may publish between the read and the write, but not this often in a row.
const ATTEMPTS: usize = 5;

outcome! {
    pub RotateFriendshipTokenOutcome: "qs.rotate_friendship_token_outcome", paid {
        Rotated = "rotated",
        UnknownFriendship = "unknown_friendship",
        NotFresh = "not_fresh",
        Stale = "stale",
    }
}

pub async fn rotate_friendship_token(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<RotateFriendshipToken>()?;
    for _ in 0..ATTEMPTS {
        let stocks = Stocks::reseal(&qs, signer, &body).await?;
        let (outcome, _) = payment
            .call(
                &qs.home.database,
                "SELECT outcome FROM qs.rotate_friendship_token($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    &body.friendship_token.lookup().as_slice(),
                    &signer.as_bytes().as_slice(),
                    &body.new_friendship_token.lookup().as_slice(),
                    &stocks.ids,
                    &stocks.sealed_keys,
                    &stocks.resealed_keys,
                ],
            )
            .await?;
        match outcome {
            RotateFriendshipTokenOutcome::Rotated => return Ok(Answer::empty(StatusCode::NO_CONTENT)),
            RotateFriendshipTokenOutcome::UnknownFriendship => return Err(ProblemType::NotFound.into()),
            RotateFriendshipTokenOutcome::NotFresh => {
                let detail = "the new friendship token is already in use";
                return Err(Problem::with_detail(ProblemType::MalformedBody, detail).into());
            }
            RotateFriendshipTokenOutcome::Stale => {}
        }
    }
    Err(Failure::fault(anyhow::anyhow!("the stocks of a friendship changed {ATTEMPTS} times in a row")))
}

/// The stocks of a friendship, with their keys as they are and as they will be sealed.
#[derive(Default)]
struct Stocks {
    ids: Vec<Vec<u8>>,
    sealed_keys: Vec<Vec<u8>>,
    resealed_keys: Vec<Vec<u8>>,
}

impl Stocks {
    async fn reseal(qs: &Qs, signer: PublicKey, body: &RotateFriendshipToken) -> Result<Self, Failure> {
        let rows = qs
            .home
            .database
            .query(
                "SELECT stock_id, sealed_key FROM qs.load_stocks($1, $2)",
                &[&body.friendship_token.lookup().as_slice(), &signer.as_bytes().as_slice()],
            )
            .await?;
        let mut stocks = Self::default();
        for row in rows {
            let (id, sealed_key): (Vec<u8>, Vec<u8>) = (row.get("stock_id"), row.get("sealed_key"));
            let stock_id = StockId::try_from(id.as_slice()).map_err(Failure::fault)?;
            let key = body.friendship_token.open(&stock_id, &sealed_key).map_err(Failure::fault)?;
            let resealed = body.new_friendship_token.seal(&stock_id, &key).map_err(Failure::fault)?;
            stocks.ids.push(id);
            stocks.sealed_keys.push(sealed_key);
            stocks.resealed_keys.push(resealed);
        }
        Ok(stocks)
    }
}
