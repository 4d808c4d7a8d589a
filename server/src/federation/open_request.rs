//! `POST /gateway` (FED-5): opens a request that a client of another domain sealed for this one, and that its homeserver,
//! which signs, handed on: the gateway of RFC 9458. The router answers the request in it as if that had come by itself, if
//! it costs a token or its answer is the same for everybody. So a sealed request that is sent again gets nothing that it
//! did not pay for, and nothing of it is kept.

use std::time::Instant;

use postern_protocol::{
    PublicKey,
    name::Domain,
    oblivious::{REQUEST_MEDIA_TYPE, RESPONSE_MEDIA_TYPE, decode_request, encode_response},
    problem::{Problem, ProblemType},
    signature::Verified,
};

use super::{Federation, admission};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Answer, Enclosed, Failure, Request, SourceAddress},
};

outcome! {
    pub AdmitRelayOutcome: "federation.admit_relay_outcome" {
        Admitted = "admitted",
        UnknownSigner = "unknown_signer",
        Blocked = "blocked",
        SignatureUsed = "signature_used",
    }
}

/// Lets a homeserver send the body of its request, at the pace of its domain.
///
/// # Errors
/// Too many requests; those of [`admission::admit`].
pub async fn admit(federation: Federation, signer: PublicKey, source: SourceAddress) -> Result<(), Failure> {
    if !federation.pace.takes(&signer, Some(source.network()), Instant::now()) {
        return Err(Failure::Overloaded("a homeserver sends too many requests"));
    }
    admission::admit(&federation.home, &federation.pace, signer).await
}

pub async fn open_request(federation: Federation, mut request: Request) -> Result<Enclosed, Failure> {
    request.one_of(&[REQUEST_MEDIA_TYPE])?;
    let signer = request.verify()?;
    let domain = federation.admit_relay(&signer).await?;
    let mut place = federation.place(&federation.gateway, &domain, &mut request).await?;
    let (_, sealed) = request.one_of(&[REQUEST_MEDIA_TYPE])?;
    let (opened, answer) = federation.gateway_keys.open(&federation.home, sealed).await?;
    let enclosed =
        decode_request(&opened).map_err(|error| Problem::with_detail(ProblemType::MalformedRequest, error));
    Ok(request.enclosing(enclosed, |response| {
        Box::pin(async move {
            let response = place.keep(response).await?;
            let sealed = answer.encapsulate(&encode_response(&response)).map_err(Failure::fault)?;
            Ok(Answer::bytes(RESPONSE_MEDIA_TYPE, sealed))
        })
    }))
}

impl Federation {
    /// The domain whose homeserver signed a request, which the gateway takes.
    async fn admit_relay(&self, signer: &Verified) -> Result<Domain, Failure> {
        let sql = "SELECT outcome, domain FROM federation.admit_relay($1, $2)";
        let (key, digest) = (signer.key.as_bytes().as_slice(), signer.digest.as_slice());
        let row = self.home.database.query_one(sql, &[&key, &digest]).await?;
        match AdmitRelayOutcome::of(&row)? {
            AdmitRelayOutcome::Admitted => {
                let domain: Domain = row.get::<_, &str>("domain").parse().map_err(Failure::fault)?;
                self.pace.admitted(signer.key, &domain, Instant::now());
                Ok(domain)
            }
            AdmitRelayOutcome::UnknownSigner => Err(ProblemType::NotAllowed.into()),
            AdmitRelayOutcome::Blocked => Err(ProblemType::HomeserverBlocked.into()),
            AdmitRelayOutcome::SignatureUsed => Err(ProblemType::SignatureUsed.into()),
        }
    }
}
