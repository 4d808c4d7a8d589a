//! `POST /relay/{domain}` (FED-5): hands a request that a client sealed for the gateway of another domain on to it, as the
//! relay of RFC 9458: this server sees no endpoint and no content, the other one no client. The token pays for the way; the
//! token within the sealed request pays the other server.

use postern_api::Request as Call;
use postern_protocol::oblivious::{ENVELOPE_BYTES, REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE};

use super::{Federation, discovery::Found, neighbour};
use crate::{
    database::outcome,
    http::{Answer, Failure, Outcome, Payment, Request},
};

outcome! {
    pub RelayRequestOutcome: "federation.relay_request_outcome", paid {
        Kept = "kept",
        Due = "due",
        Failing = "failing",
        Blocked = "blocked",
        TooMany = "too_many",
    }
}

pub async fn relay_request(federation: Federation, mut request: Request, payment: Payment) -> Outcome {
    let domain = federation.other_domain(&request)?;
    request.one_of(&[REQUEST_MEDIA_TYPE])?;
    let mut place = federation.place(&federation.relay, &domain, &mut request).await?;
    let (_, row) = payment
        .call::<RelayRequestOutcome>(
            &federation.home.database,
            "SELECT outcome, description, trusted, distrusted FROM federation.relay_request($1, $2, $3)",
            &[&domain.as_str()],
        )
        .await?;
    let source = request.source();
    let found = Found::of(&row).map_err(Failure::fault)?.asked_by(source);
    let memory = place.answer_memory();
    let sealed = request.take_body();
    let called = async {
        let neighbour = federation.neighbour(&domain, found, Some(memory)).await?;
        let call = Call::post("/gateway")
            .body(REQUEST_MEDIA_TYPE, sealed)
            .accepting(RESPONSE_MEDIA_TYPE)
            .within(federation.answer_time())
            .answered_in(federation.relayed_answer_bytes + ENVELOPE_BYTES);
        let answer = federation.hand_on(&neighbour, call, source).await;
        answer.map_err(|error| Failure::from(neighbour::problem(&error)))
    };
    let answer = federation.relayed(&mut request, &mut place, called).await?;
    if answer.content_type != RESPONSE_MEDIA_TYPE {
        return Err(neighbour::unexpected("an answer that is not sealed").into());
    }
    Ok(Answer::bytes(RESPONSE_MEDIA_TYPE, answer.body))
}
