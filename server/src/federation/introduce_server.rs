//! `POST /homeservers` (FED-1): another domain's homeserver, which signs, asks this one to look at its description. So it
//! becomes known where it has something to say, and its next keys do before the next look is due. Anybody can ask: looks at
//! strangers are limited, as all that strangers attempt.

use std::time::Instant;

use http::StatusCode;
use postern_protocol::{federation::IntroduceServer, problem::ProblemType, signature::Verified};

use super::{Federation, discovery::Found};
use crate::{
    database::{SqlOutcome, outcome},
    home::Homeserver,
    http::{Answer, Failure, Outcome, RateLimit, Request},
};

outcome! {
    pub IntroduceServerOutcome: "federation.introduce_server_outcome" {
        Known = "known",
        Unknown = "unknown",
        Blocked = "blocked",
        SignatureUsed = "signature_used",
        SourceLimited = "source_limited",
        ServerLimited = "server_limited",
    }
}

/// The purpose for which network addresses are digested.
const SOURCE: &str = "introduction source";

pub async fn introduce_server(federation: Federation, request: Request) -> Outcome {
    let Verified { key, digest } = request.verify()?;
    let IntroduceServer { domain } = request.body()?;
    if federation.home.of(&domain) == Homeserver::Local {
        return Err(ProblemType::NotAllowed.into());
    }
    if !federation.pace.takes(&key, Some(request.source().network()), Instant::now()) {
        return Err(Failure::Overloaded("a homeserver introduces itself too often"));
    }
    let database = &federation.home.database;
    let sql = "SELECT outcome, allowance, resets_in FROM federation.introduce_server($1, $2, $3, $4)";
    let key = key.as_bytes().as_slice();
    let sources = request.source().digests(|network| federation.home.master_key.digest(SOURCE, network));
    let row = database.query_one(sql, &[&key, &digest.as_slice(), &sources, &domain.as_str()]).await?;
    match IntroduceServerOutcome::of(&row)? {
        IntroduceServerOutcome::Known => return Ok(Answer::empty(StatusCode::NO_CONTENT)),
        IntroduceServerOutcome::Unknown => {}
        IntroduceServerOutcome::Blocked => return Err(ProblemType::HomeserverBlocked.into()),
        IntroduceServerOutcome::SignatureUsed => return Err(ProblemType::SignatureUsed.into()),
        IntroduceServerOutcome::SourceLimited | IntroduceServerOutcome::ServerLimited => {
            return Err(Failure::Limited(ProblemType::TooManyAttempts.into(), RateLimit::used_up(&row)));
        }
    }
    let found = Found::find(&federation.home, &domain, true).await?.asked_by(request.source());
    federation.discover(&domain, found).await?;
    let row = database.query_one("SELECT federation.signing_domain($1)", &[&key]).await?;
    match row.get::<_, Option<&str>>(0) == Some(domain.as_str()) {
        true => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        false => Err(ProblemType::NotAllowed.into()),
    }
}
