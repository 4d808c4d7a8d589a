//! `POST /aas/token-request` (AAS-2, AAS-3): a batch of blinded tokens for a registered
//! client, within its user's allowance. What the client will redeem cannot be told from
//! what is signed here.

use postern_protocol::{
    problem::{Problem, ProblemType},
    token::{BATCH_REQUEST_MEDIA_TYPE, BATCH_RESPONSE_MEDIA_TYPE, BATCH_SIZES, TOKEN_TYPE},
};
use privacypass::amortized_tokens::AmortizedBatchTokenRequest;
use tls_codec::Deserialize as _;
use voprf::{BlindedElement, Ristretto255};

use crate::{
    app::App,
    road::{Answer, Failure, Outcome, Request},
};

const ELEMENT_LEN: usize = 32;

pub async fn issue_tokens(app: App, request: Request) -> Outcome {
    let body = request.bytes(BATCH_REQUEST_MEDIA_TYPE)?;
    let signer = request.signer()?;
    if body.get(..2).is_some_and(|found| found != TOKEN_TYPE.to_be_bytes()) {
        return Err(ProblemType::UnknownTokenKey.into());
    }
    let batch = AmortizedBatchTokenRequest::<Ristretto255>::tls_deserialize_exact(body)
        .map_err(|_| invalid("not an amortized batch request of token type 0x0005"))?;
    let size = u16::try_from(batch.nr()).unwrap_or_default();
    if !BATCH_SIZES.contains(&size) {
        return Err(invalid("batches have 1, 10 or 100 tokens").into());
    }
    if !app.issuer.knows(batch.truncated_token_key_id()) {
        return Err(ProblemType::UnknownTokenKey.into());
    }
    check_elements(body, batch.nr())?;
    let row = app
        .database
        .query_one(
            "SELECT outcome FROM aas.take_allowance($1, $2)",
            &[&signer.as_bytes().as_slice(), &i32::from(size)],
        )
        .await?;
    match row.get("outcome") {
        "granted" => {}
        "used_up" => return Err(ProblemType::AllowanceUsedUp.into()),
        "unknown_client" => return Err(ProblemType::NotAllowed.into()),
        other => return Err(Failure::unexpected(other)),
    }
    let issuer = app.clone();
    let tokens = tokio::task::spawn_blocking(move || {
        futures_util::FutureExt::now_or_never(issuer.issuer.issue(batch))
    })
    .await
    .map_err(Failure::fault)?
    .ok_or_else(|| Failure::fault(anyhow::anyhow!("issuing waited for something")))?
    .map_err(Failure::fault)?;
    Ok(Answer::bytes(BATCH_RESPONSE_MEDIA_TYPE, tokens))
}

/// Before they cost anything of the allowance. The elements end the request, which does
/// not show them.
fn check_elements(request: &[u8], number: usize) -> Result<(), Problem> {
    let start = request.len().saturating_sub(number * ELEMENT_LEN);
    let valid = |element| BlindedElement::<Ristretto255>::deserialize(element).is_ok();
    if request[start..].chunks(ELEMENT_LEN).all(valid) {
        Ok(())
    } else {
        Err(invalid("a blinded element is not a group element"))
    }
}

fn invalid(detail: &str) -> Problem {
    Problem::with_detail(ProblemType::InvalidTokenRequest, detail)
}
