//! `POST /aas/token-request` (AAS-2, AAS-3): issues blinded tokens to a registered client, within its user's
//! allowance, or to another domain's homeserver, within the domain's, in any of the standards' formats. Nobody can
//! tell which of the tokens signed here is the one that is redeemed later.
//!
//! A client whose answer was lost repeats its request: it gets its tokens again, and the allowance
//! stays as it is. Evaluated elements and signatures are the same; a proof is random, and so
//! another one, as good.

use std::time::Instant;

use aws_lc_rs::digest::{self, SHA256};
use http::StatusCode;
use postern_protocol::{
    name::Domain,
    problem::{Problem, ProblemType},
    signature::Verified,
    token::TokenType,
};

use super::{
    Aas,
    token_request::{Format, Issued, TokenRequest},
};
use crate::{
    database::{DatabaseError, SqlOutcome, outcome},
    http::{Answer, Failure, Outcome, Period, RateLimit, Request},
};

/// The purpose for which signers' keys are digested, so that refusals are counted.
const SOURCE: &str = "AAS refused signer";

outcome! {
    pub AdmitSignerOutcome: "aas.admit_signer_outcome" {
        Admitted = "admitted",
        UnknownSigner = "unknown_signer",
        Blocked = "blocked",
        SignatureUsed = "signature_used",
        Suspended = "suspended",
        RefusedTooOften = "refused_too_often",
    }
}

outcome! {
    pub TakeAllowanceOutcome: "aas.take_allowance_outcome" {
        Granted = "granted",
        UsedUp = "used_up",
        UnknownSigner = "unknown_signer",
        Blocked = "blocked",
        Suspended = "suspended",
    }
}

pub async fn issue_tokens(aas: Aas, request: Request) -> Outcome {
    let media_types = Format::ALL.map(Format::request_media_type);
    let (index, body) = request.one_of(&media_types)?;
    let format = Format::ALL[index];
    let Verified { key: signer, digest } = request.verify()?;
    let parsed = TokenRequest::parse(format, body)?;
    if !aas.pace.takes(&signer, None, Instant::now()) {
        return Err(Failure::Overloaded("a homeserver asks for tokens too often"));
    }
    let source = aas.home.master_key.digest(SOURCE, signer.as_bytes());
    let homeserver = admit(&aas, signer.as_bytes(), &digest, &source).await?;

    let asked = parsed.asked();
    let digest = request_digest(format, body);
    let issued = match &homeserver {
        Some(domain) => {
            aas.pace.admitted(signer, domain, Instant::now());
            issue_to_homeserver(&aas, domain, signer.as_bytes(), parsed, &digest).await
        }
        None => issue(&aas, signer.as_bytes(), parsed, &digest).await,
    };
    if matches!(&issued, Err(Failure::Refused(_) | Failure::Limited(..))) {
        aas.issued.count(&asked, false);
        if homeserver.is_none() {
            let sql = "SELECT aas.count_refusal($1)";
            aas.home.database.query_one(sql, &[&source.as_slice()]).await?;
        }
    }
    let (issued, limit) = issued?;
    let status = if issued.partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    Ok(Answer::bytes(format.response_media_type(), issued.response).status(status).limited(limit))
}

/// Issues the tokens that a client asked for, if the allowance has them. What cannot be issued takes nothing from it.
async fn issue(
    aas: &Aas,
    signer_key: &[u8],
    request: TokenRequest,
    digest: &[u8],
) -> Result<(Issued, RateLimit), Failure> {
    look_for_keys(aas, &request).await?;
    let ring = aas.issuer.ring();
    let issuable = aas.home.compute(|| request.check(&ring)).await??;
    let numbers = issuable.numbers();
    let limit = take_allowance(aas, signer_key, numbers.clone(), digest).await?;
    let issued = aas.home.compute(|| issuable.issue()).await??;
    aas.issued.count(&numbers, true);
    Ok((issued, limit))
}

/// Issues the tokens that a homeserver asked for. It vouches for many people: what one of them asks wrongly takes from the
/// allowance, and keeps nobody else out. So nothing is computed that the allowance does not pay for, and what is computed
/// for homeservers leaves cores to others. A key that does not issue is found before, at no cost: the homeserver has seen
/// another one than there is now, which is nobody's fault.
async fn issue_to_homeserver(
    aas: &Aas,
    domain: &Domain,
    signer_key: &[u8],
    request: TokenRequest,
    digest: &[u8],
) -> Result<(Issued, RateLimit), Failure> {
    look_for_keys(aas, &request).await?;
    let ring = aas.issuer.ring();
    request.check_keys(&ring)?;
    let limit = take_allowance(aas, signer_key, request.asked(), digest).await?;
    let compute = || {
        let issuable = request.check(&ring)?;
        let numbers = issuable.numbers();
        issuable.issue().map(|issued| (issued, numbers))
    };
    let (issued, numbers) = aas.compute_for(domain, compute).await??;
    aas.issued.count(&numbers, true);
    Ok((issued, limit))
}

/// Looks for keys that this process does not have yet. The check refuses those that it still does not have.
async fn look_for_keys(aas: &Aas, request: &TokenRequest) -> Result<(), DatabaseError> {
    let keys = request.keys();
    let known = aas.issuer.find(|ring| {
        let has_all = keys.iter().all(|(kind, id)| ring.issuing(*kind, *id).is_some());
        has_all.then_some(())
    });
    known.await.map(drop)
}

/// Lets a signer that may have tokens in, once for each signature. Returns the domain if it is a homeserver.
async fn admit(
    aas: &Aas,
    signer_key: &[u8],
    signature: &[u8],
    source: &[u8; 32],
) -> Result<Option<Domain>, Failure> {
    let sql = "SELECT outcome, allowance, resets_in, domain FROM aas.admit_signer($1, $2, $3)";
    let row = aas.home.database.query_one(sql, &[&signer_key, &signature, &source.as_slice()]).await?;
    match AdmitSignerOutcome::of(&row)? {
        AdmitSignerOutcome::Admitted => {
            row.get::<_, Option<&str>>("domain").map(str::parse::<Domain>).transpose().map_err(Failure::fault)
        }
        AdmitSignerOutcome::UnknownSigner => Err(ProblemType::NotAllowed.into()),
        AdmitSignerOutcome::Blocked => Err(ProblemType::HomeserverBlocked.into()),
        AdmitSignerOutcome::SignatureUsed => Err(ProblemType::SignatureUsed.into()),
        AdmitSignerOutcome::Suspended => Err(ProblemType::AccountSuspended.into()),
        AdmitSignerOutcome::RefusedTooOften => {
            let detail = "too many requests of this hour were refused";
            let problem = Problem::with_detail(ProblemType::AllowanceUsedUp, detail);
            Err(Failure::Limited(problem, RateLimit::used_up(&row)))
        }
    }
}

async fn take_allowance(
    aas: &Aas,
    signer_key: &[u8],
    numbers: Vec<(TokenType, i32)>,
    digest: &[u8],
) -> Result<RateLimit, Failure> {
    let (types, numbers): (Vec<i32>, Vec<i32>) =
        numbers.into_iter().map(|(kind, number)| (kind as i32, number)).unzip();
    let row = aas
        .home
        .database
        .query_one(
            "SELECT outcome, allowance, remaining, resets_in FROM aas.take_allowance($1, $2, $3, $4)",
            &[&signer_key, &digest, &types, &numbers],
        )
        .await?;
    let limit = || RateLimit {
        period: Period::Day,
        allowance: row.get("allowance"),
        remaining: row.get("remaining"),
        resets_in: row.get("resets_in"),
    };
    match TakeAllowanceOutcome::of(&row)? {
        TakeAllowanceOutcome::Granted => Ok(limit()),
        TakeAllowanceOutcome::UsedUp => Err(Failure::Limited(ProblemType::AllowanceUsedUp.into(), limit())),
        TakeAllowanceOutcome::UnknownSigner => Err(ProblemType::NotAllowed.into()),
        TakeAllowanceOutcome::Blocked => Err(ProblemType::HomeserverBlocked.into()),
        TakeAllowanceOutcome::Suspended => Err(ProblemType::AccountSuspended.into()),
    }
}

/// The digest by which a repeat is recognised. The format is part of it: the same bytes in another
/// format are another request.
fn request_digest(format: Format, body: &[u8]) -> Vec<u8> {
    let mut context = digest::Context::new(&SHA256);
    context.update(format.request_media_type().as_bytes());
    context.update(&[0]);
    context.update(body);
    context.finish().as_ref().to_vec()
}
