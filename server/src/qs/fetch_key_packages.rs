//! `POST /qs/key-packages/fetch` (QS-6): answers with one KeyPackage of each client of a user that has some of a
//! ciphersuite. The inviter is anonymous: it shows a paid token and the user's friendship token, and nothing else.

use http::StatusCode;
use postern_protocol::{
    FriendshipToken, StockId,
    encoding::Encoding,
    problem::ProblemType,
    qs::{FetchKeyPackages, StockedKeyPackage},
};

use super::Qs;
use crate::{
    database::outcome,
    http::{Failure, Outcome, Payment, Request},
};

outcome! {
    pub FetchKeyPackagesOutcome: "qs.fetch_key_packages_outcome", paid {
        Fetched = "fetched",
        CiphersuiteForbidden = "ciphersuite_forbidden",
        UnknownFriendship = "unknown_friendship",
    }
}

pub async fn fetch_key_packages(qs: Qs, request: Request, payment: Payment) -> Outcome {
    let FetchKeyPackages { friendship_token, ciphersuite } = request.body()?;
    let (outcome, row) = payment
        .call(
            &qs.home.database,
            "SELECT outcome, stock_ids, sealed_keys, packages, last_resorts
             FROM qs.fetch_key_packages($1, $2, $3, $4)",
            &[&friendship_token.lookup().as_slice(), &i32::from(ciphersuite)],
        )
        .await?;
    match outcome {
        FetchKeyPackagesOutcome::Fetched => {}
        FetchKeyPackagesOutcome::CiphersuiteForbidden => return Err(ProblemType::CiphersuiteForbidden.into()),
        FetchKeyPackagesOutcome::UnknownFriendship => return Err(ProblemType::NotFound.into()),
    }
    let stock_ids: Vec<&[u8]> = row.get("stock_ids");
    let sealed_keys: Vec<&[u8]> = row.get("sealed_keys");
    let packages: Vec<&[u8]> = row.get("packages");
    let last_resorts: Vec<bool> = row.get("last_resorts");
    let key_packages = stock_ids
        .into_iter()
        .zip(sealed_keys)
        .zip(packages)
        .zip(last_resorts)
        .map(|(((stock_id, sealed_key), package), last_resort)| {
            open(&friendship_token, stock_id, sealed_key, last_resort, package)
        })
        .collect::<Result<_, _>>()?;
    request.answer(StatusCode::OK, &qs.batch_signer.sign(&qs.home.domain, key_packages)?)
}

fn open(
    token: &FriendshipToken,
    stock_id: &[u8],
    sealed_key: &[u8],
    last_resort: bool,
    package: &[u8],
) -> Result<StockedKeyPackage, Failure> {
    let stock_id = StockId::try_from(stock_id).map_err(Failure::fault)?;
    let key = token.open(&stock_id, sealed_key).map_err(Failure::fault)?;
    let package = key.open(last_resort, package).map_err(Failure::fault)?;
    Encoding::Cbor.decode(&package).map_err(Failure::fault)
}
