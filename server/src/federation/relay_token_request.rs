//! `POST /relay/{domain}/token-request` (FED-5): asks another domain's issuer for tokens for a client, as the attester of
//! RFC 9576 §4.4: the request is the client's, blinded, and signed by this server; the other one knows that it is for
//! somebody of this domain, and this one learns no token. They are taken from the allowance of this domain there.

use std::time::Instant;

use http::StatusCode;
use postern_api::Request as Call;
use postern_protocol::problem::{Problem, ProblemType};

use super::{Federation, discovery::Found, neighbour};
use crate::{
    aas::token_request::{Format, TokenRequest},
    database::outcome,
    http::{Answer, Failure, Outcome, Payment, Request},
};

outcome! {
    pub RelayTokenRequestOutcome: "federation.relay_token_request_outcome", paid {
        Kept = "kept",
        Due = "due",
        Failing = "failing",
        Blocked = "blocked",
        TooMany = "too_many",
        TooManyTokens = "too_many_tokens",
    }
}

pub async fn relay_token_request(federation: Federation, mut request: Request, payment: Payment) -> Outcome {
    let domain = federation.other_domain(&request)?;
    let (index, body) = request.one_of(&Format::ALL.map(Format::request_media_type))?;
    let format = Format::ALL[index];
    let parsed = TokenRequest::parse(format, body)?;
    let tokens = i32::try_from(parsed.number()).unwrap_or(i32::MAX);
    let network = request.source().network();
    federation
        .allowances
        .spares(&domain, &network, Instant::now())
        .map_err(|spared| Problem::with_detail(ProblemType::AllowanceUsedUp, spared))?;
    let mut place = federation.place(&federation.relay, &domain, &mut request).await?;
    let (outcome, row) = payment
        .call::<RelayTokenRequestOutcome>(
            &federation.home.database,
            "SELECT outcome, description, trusted, distrusted
               FROM federation.relay_token_request($1, $2, $3, $4)",
            &[&domain.as_str(), &tokens],
        )
        .await?;
    if outcome == RelayTokenRequestOutcome::TooManyTokens {
        let detail = "one token of this server does not buy so many of another one";
        return Err(Problem::with_detail(ProblemType::InvalidTokenRequest, detail).into());
    }
    let source = request.source();
    let found = Found::of(&row).map_err(Failure::fault)?.asked_by(source);
    let media_type = format.response_media_type();
    let memory = place.answer_memory();
    let body = request.take_body();
    let called = async {
        let neighbour = federation.neighbour(&domain, found, Some(memory)).await?;
        // This server vouches for its people: what is wrong already goes no further.
        federation.home.compute(|| parsed.check_for(&neighbour.description.issuer)).await??;
        let call = Call::post(neighbour.description.issuer.issuer_request_uri.clone())
            .body(format.request_media_type(), body)
            .accepting(media_type)
            .within(federation.answer_time());
        let answer = federation.hand_on(&neighbour, call, source).await;
        answer.map_err(|error| Failure::from(problem(&error)))
    };
    let answer = federation.relayed(&mut request, &mut place, called).await?;
    if let Some(limit) = answer.rate_limit {
        let taken = (network, parsed.number() as u64);
        federation.allowances.note(&domain, limit, Some(taken), Instant::now());
    }
    if answer.content_type != media_type || answer.status == StatusCode::NO_CONTENT {
        return Err(neighbour::unexpected("tokens of another media type").into());
    }
    Ok(Answer::bytes(media_type, answer.body).status(answer.status))
}

/// The problem that a client is told: its request is at fault, what this domain has there is used up, or the way failed.
fn problem(error: &postern_api::Error) -> Problem {
    use ProblemType::{AllowanceUsedUp, InvalidTokenRequest, NoTokenIssued, UnknownTokenKey};
    match error.problem() {
        Some(kind @ (AllowanceUsedUp | UnknownTokenKey | InvalidTokenRequest | NoTokenIssued)) => {
            Problem::with_detail(kind, "the other homeserver says so")
        }
        _ => neighbour::problem(error),
    }
}
